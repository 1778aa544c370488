//! Fields that belong to one connection and are never passed on (RFC 9110, 7.6.1).
