//! The only maker of error responses: problem bodies (RFC 9457) with `Proxy-Status` (RFC 9209).
