//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): pure decoding.
//!
//! Decoding looks at what has been read so far and classifies it; it neither waits nor reads. All
//! sizes are bounded: 107 bytes for version 1, 16 and [`MAX_V2_PAYLOAD`] for version 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its line end.
const MAX_V1: usize = 107;
/// The longest part after the fixed header of version 2 that is read: addresses and TLVs.
pub const MAX_V2_PAYLOAD: usize = 4096;
/// The longest header at all.
pub const MAX_HEADER: usize = 16 + MAX_V2_PAYLOAD;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// More bytes are needed to tell.
    Incomplete,
    /// No PROXY header: the client's own bytes.
    Absent,
    /// Begins like a header but is not a valid one.
    Malformed,
    /// A header, `length` bytes of it.
    Header {
        /// The client's own bytes begin here.
        length: usize,
        /// `None` for LOCAL, UNKNOWN and non-internet addresses: the socket's own addresses apply.
        addresses: Option<Addresses>,
    },
}

/// Both ends of the connection that the proxy accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client's.
    pub source: SocketAddr,
    /// The one that it connected to.
    pub destination: SocketAddr,
}

/// Decodes the first bytes of a connection.
pub fn decode(bytes: &[u8]) -> Decoded {
    if starts_like(bytes, V1_START) {
        decode_v1(bytes)
    } else if starts_like(bytes, V2_START) {
        decode_v2(bytes)
    } else {
        Decoded::Absent
    }
}

/// Whether `bytes` and `start` agree as far as both go.
fn starts_like(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

fn decode_v1(bytes: &[u8]) -> Decoded {
    let seen = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < MAX_V1 { Decoded::Incomplete } else { Decoded::Malformed };
    };
    let line = seen.get(V1_START.len()..end).and_then(|line| str::from_utf8(line).ok());
    let length = end + 2;
    match line {
        // The rest of the line has no meaning.
        Some(line) if line == "UNKNOWN" || line.starts_with("UNKNOWN ") => {
            Decoded::Header { length, addresses: None }
        }
        line => line.and_then(parse_v1_line).map_or(Decoded::Malformed, |addresses| {
            Decoded::Header { length, addresses: Some(addresses) }
        }),
    }
}

/// What stands after `PROXY `: family, both addresses, both ports.
fn parse_v1_line(line: &str) -> Option<Addresses> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let (source, destination) = (words.next()?, words.next()?);
    let (source_port, destination_port) = (parse_port(words.next()?)?, parse_port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let (source, destination): (IpAddr, IpAddr) = (source.parse().ok()?, destination.parse().ok()?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    fits.then(|| Addresses::new(source, source_port, destination, destination_port))
}

/// Digits only: no sign, no leading zero.
fn parse_port(word: &str) -> Option<u16> {
    let is_plain =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if is_plain { word.parse().ok() } else { None }
}

fn decode_v2(bytes: &[u8]) -> Decoded {
    let Some((fixed, rest)) = bytes.split_first_chunk::<16>() else {
        return Decoded::Incomplete;
    };
    let payload = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_proxied = match fixed[12] {
        0x20 => false,
        0x21 => true,
        _ => return Decoded::Malformed,
    };
    if payload > MAX_V2_PAYLOAD {
        return Decoded::Malformed;
    }
    let Some(payload) = rest.get(..payload) else {
        return Decoded::Incomplete;
    };
    let length = 16 + payload.len();
    // High half: family; low half: transport. Datagrams, unix sockets and "unspecified" carry
    // nothing usable.
    let addresses = match (is_proxied, fixed[13]) {
        (true, 0x11) => addresses_v4(payload).map(Some),
        (true, 0x21) => addresses_v6(payload).map(Some),
        (false, _) | (true, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Some(None),
        (true, _) => None,
    };
    match addresses {
        Some(addresses) => Decoded::Header { length, addresses },
        None => Decoded::Malformed,
    }
}

fn addresses_v4(payload: &[u8]) -> Option<Addresses> {
    let (source, rest) = payload.split_first_chunk::<4>()?;
    let (destination, rest) = rest.split_first_chunk::<4>()?;
    let (ports, _tlvs) = rest.split_first_chunk::<4>()?;
    Some(Addresses::with_ports(
        Ipv4Addr::from(*source).into(),
        Ipv4Addr::from(*destination).into(),
        *ports,
    ))
}

fn addresses_v6(payload: &[u8]) -> Option<Addresses> {
    let (source, rest) = payload.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (ports, _tlvs) = rest.split_first_chunk::<4>()?;
    Some(Addresses::with_ports(
        Ipv6Addr::from(*source).into(),
        Ipv6Addr::from(*destination).into(),
        *ports,
    ))
}

// === impl Addresses ===

impl Addresses {
    fn new(source: IpAddr, source_port: u16, destination: IpAddr, destination_port: u16) -> Self {
        Self {
            source: SocketAddr::new(source.to_canonical(), source_port),
            destination: SocketAddr::new(destination.to_canonical(), destination_port),
        }
    }

    fn with_ports(source: IpAddr, destination: IpAddr, ports: [u8; 4]) -> Self {
        let [a, b, c, d] = ports;
        Self::new(source, u16::from_be_bytes([a, b]), destination, u16::from_be_bytes([c, d]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(length: usize, source: &str, destination: &str) -> Decoded {
        let addresses = Addresses {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Decoded::Header { length, addresses: Some(addresses) }
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = V2_START.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn v1_gives_both_addresses() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
        let expected = header(line.len(), "192.0.2.1:56324", "198.51.100.2:443");
        assert_eq!(decode(&[line.as_slice(), b"GET / HTTP/1.1\r\n"].concat()), expected);

        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        assert_eq!(decode(line), header(line.len(), "[2001:db8::1]:1", "[2001:db8::2]:65535"));
    }

    #[test]
    fn v1_unknown_and_v2_local_keep_the_sockets_peer() {
        let line = b"PROXY UNKNOWN ffff::1 whatever\r\n";
        assert_eq!(decode(line), Decoded::Header { length: line.len(), addresses: None });
        let local = v2(0x20, 0x11, &[1; 12]);
        assert_eq!(decode(&local), Decoded::Header { length: 28, addresses: None });
        let unspecified = v2(0x21, 0x00, &[]);
        assert_eq!(decode(&unspecified), Decoded::Header { length: 16, addresses: None });
        let unix = v2(0x21, 0x31, &[0; 216]);
        assert_eq!(decode(&unix), Decoded::Header { length: 232, addresses: None });
    }

    #[test]
    fn v1_malformed() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 x\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
        ] {
            assert_eq!(decode(line.as_bytes()), Decoded::Malformed, "{line:?}");
        }
        let endless = format!("PROXY TCP4 {}", "1".repeat(MAX_V1));
        assert_eq!(decode(endless.as_bytes()), Decoded::Malformed);
    }

    #[test]
    fn v2_gives_both_addresses_and_skips_tlvs() {
        let payload = [192, 0, 2, 1, 198, 51, 100, 2, 0xDC, 0x04, 0x01, 0xBB, 4, 0, 1, 0];
        let bytes = v2(0x21, 0x11, &payload);
        let expected = header(bytes.len(), "192.0.2.1:56324", "198.51.100.2:443");
        assert_eq!(decode(&[bytes.as_slice(), b"rest"].concat()), expected);

        let mut payload = [0; 36];
        payload[15] = 1;
        payload[31] = 2;
        payload[33] = 80;
        payload[35] = 90;
        assert_eq!(decode(&v2(0x21, 0x21, &payload)), header(52, "[::1]:80", "[::2]:90"));
    }

    #[test]
    fn v2_malformed() {
        assert_eq!(decode(&v2(0x11, 0x11, &[0; 12])), Decoded::Malformed, "version 1");
        assert_eq!(decode(&v2(0x22, 0x11, &[0; 12])), Decoded::Malformed, "unknown command");
        assert_eq!(decode(&v2(0x21, 0x41, &[0; 12])), Decoded::Malformed, "unknown family");
        assert_eq!(decode(&v2(0x21, 0x11, &[0; 11])), Decoded::Malformed, "short addresses");
        let long = v2(0x21, 0x11, &vec![0; MAX_V2_PAYLOAD + 1]);
        assert_eq!(decode(&long[..16]), Decoded::Malformed, "over the bound");
    }

    #[test]
    fn a_request_is_no_header_from_its_first_byte_that_differs() {
        for bytes in ["GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
            assert_eq!(decode(bytes.as_bytes()), Decoded::Absent, "{bytes:?}");
        }
        assert_eq!(decode(b"\x16\x03\x01"), Decoded::Absent, "a TLS hello");
        assert_eq!(decode(b"P"), Decoded::Incomplete);
        assert_eq!(decode(b""), Decoded::Incomplete);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            decode(&bytes);
            decode(&[V1_START, &bytes].concat());
            decode(&[V2_START, &bytes].concat());
        }

        #[test]
        fn every_prefix_of_a_header_is_incomplete(a in any::<[u8; 4]>(), port in any::<u16>()) {
            let line = format!("PROXY TCP4 {} 10.0.0.1 {port} 80\r\n", Ipv4Addr::from(a));
            for end in 0..line.len() {
                prop_assert_eq!(decode(&line.as_bytes()[..end]), Decoded::Incomplete);
            }
            let is_header = matches!(decode(line.as_bytes()), Decoded::Header { .. });
            prop_assert!(is_header);
        }
    }
}
