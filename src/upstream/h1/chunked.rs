//! Reads a body that comes in chunks (RFC 9112, 7.1). Pure.
//!
//! Strict about line ends: what one reader takes for the end of a line and another does not makes
//! them disagree about where the message ends.

use std::mem;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::upstream::h1::{Invalid, head::MAX_FIELDS};

/// The most bytes of all extensions of a body together. They are read and dropped, so that many
/// small chunks with large extensions would be work for nothing.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The longest line before a chunk: its size and its extensions.
const MAX_LINE: usize = MAX_EXTENSIONS;
/// The most bytes of all trailers.
const MAX_TRAILERS: usize = 32 * 1024;
const LINE_END: &[u8] = b"\r\n";
const TRAILERS_END: &[u8] = b"\r\n\r\n";
/// What ends the last chunk and a body without trailers.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// Where in the body its reader is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    state: State,
    extensions: usize,
    /// How much of the current line or of the trailers was searched for its end, without finding it.
    searched: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the line with the size of the next chunk.
    #[default]
    Size,
    /// This many bytes of the chunk are missing.
    Data(u64),
    /// Before the line end that follows a chunk.
    DataEnd,
    Trailers,
    Over,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It takes more bytes.
    More,
    Data(Bytes),
    /// The body is over, with its trailers.
    Over(HeaderMap),
}

// === impl Decoder ===

impl Decoder {
    /// Takes the next part of the body out of `bytes`.
    pub(super) fn step(&mut self, bytes: &mut BytesMut) -> Result<Step, Invalid> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = self.line(bytes)? else { return Ok(Step::More) };
                    let length = line.len() + LINE_END.len();
                    self.state = match self.size(line)? {
                        0 => State::Trailers,
                        size => State::Data(size),
                    };
                    bytes.advance(length);
                }
                State::Data(_) if bytes.is_empty() => return Ok(Step::More),
                State::Data(missing) => {
                    let all = bytes.len();
                    let count = usize::try_from(missing).map_or(all, |missing| missing.min(all));
                    let missing = missing - count as u64;
                    self.state = if missing == 0 { State::DataEnd } else { State::Data(missing) };
                    let data = bytes.split_to(count).freeze();
                    self.end_early(bytes);
                    return Ok(Step::Data(data));
                }
                State::DataEnd => match bytes.get(..2) {
                    Some(LINE_END) => {
                        bytes.advance(LINE_END.len());
                        self.state = State::Size;
                    }
                    None if bytes.is_empty() || bytes[..] == *b"\r" => return Ok(Step::More),
                    _ => return Err(Invalid::ChunkEnd),
                },
                State::Trailers => return self.trailers(bytes),
                State::Over => return Ok(Step::Over(HeaderMap::new())),
            }
        }
    }

    /// Whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Sees the end behind the last chunk if it is here already: whoever gets the chunk can then pass
    /// on the end with it.
    fn end_early(&mut self, bytes: &mut BytesMut) {
        if self.state == State::DataEnd && bytes.starts_with(END) {
            bytes.advance(END.len());
            self.state = State::Over;
        }
    }

    /// The first line, without its end; `None` if it is not complete.
    fn line<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Invalid> {
        let new = bytes.iter().take(MAX_LINE).skip(self.searched);
        let Some(length) = new.copied().position(|byte| byte == b'\n') else {
            self.searched = bytes.len();
            return if bytes.len() < MAX_LINE { Ok(None) } else { Err(Invalid::ChunkSize) };
        };
        let length = mem::take(&mut self.searched) + length;
        match bytes[..length].strip_suffix(b"\r") {
            Some(line) if !line.contains(&b'\r') => Ok(Some(line)),
            _ => Err(Invalid::ChunkSize),
        }
    }

    /// The size in a line, whose extensions are ignored (RFC 9112, 7.1.1).
    fn size(&mut self, line: &[u8]) -> Result<u64, Invalid> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, behind) = line.split_at(digits);
        let spaces = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match &behind[spaces..] {
            _ if digits.is_empty() => return Err(Invalid::ChunkSize),
            [] => {}
            [b';', extensions @ ..] => self.extensions += extensions.len(),
            _ => return Err(Invalid::ChunkSize),
        }
        if self.extensions >= MAX_EXTENSIONS {
            return Err(Invalid::ChunkExtensions);
        }
        digits.iter().try_fold(0_u64, |size, &digit| {
            let value = char::from(digit).to_digit(16).ok_or(Invalid::ChunkSize)?;
            let size = size.checked_mul(16).ok_or(Invalid::ChunkSize)?;
            Ok(size + u64::from(value))
        })
    }

    fn trailers(&mut self, bytes: &mut BytesMut) -> Result<Step, Invalid> {
        if bytes.starts_with(LINE_END) {
            bytes.advance(LINE_END.len());
            self.state = State::Over;
            return Ok(Step::Over(HeaderMap::new()));
        }
        // The end may have begun in what was searched.
        let from = self.searched.saturating_sub(TRAILERS_END.len());
        let mut windows = bytes[from..].windows(TRAILERS_END.len());
        let end = windows.position(|window| window == TRAILERS_END).map(|at| from + at);
        let length = end.map_or(bytes.len(), |end| end + TRAILERS_END.len());
        if length > MAX_TRAILERS || !is_strict(&bytes[..length], self.searched) {
            return Err(Invalid::Trailers);
        }
        if end.is_none() {
            self.searched = length;
            return Ok(Step::More);
        }
        let mut room = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let parsed = httparse::parse_headers(&bytes[..length], &mut room);
        let Ok(httparse::Status::Complete((_, fields))) = parsed else {
            return Err(Invalid::Trailers);
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            let (Ok(name), Ok(value)) = (name, value) else { return Err(Invalid::Trailers) };
            trailers.append(name, value);
        }
        bytes.advance(length);
        self.state = State::Over;
        Ok(Step::Over(trailers))
    }
}

/// Whether each line that ends in `lines` from `from` on does so as it should.
fn is_strict(lines: &[u8], from: usize) -> bool {
    let ends = (from..lines.len()).filter(|&at| lines[at] == b'\n');
    ends.into_iter().all(|at| lines[..at].ends_with(b"\r"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is found in `bytes`.
    fn decoded(bytes: &str) -> Result<(Vec<u8>, Option<HeaderMap>), Invalid> {
        let mut bytes = BytesMut::from(bytes);
        let (mut decoder, mut body) = (Decoder::default(), Vec::new());
        loop {
            match decoder.step(&mut bytes)? {
                Step::More => return Ok((body, None)),
                Step::Data(data) => body.extend_from_slice(&data),
                Step::Over(trailers) => return Ok((body, Some(trailers))),
            }
        }
    }

    #[test]
    fn a_body_ends_with_its_last_chunk_and_no_sooner() {
        let whole = "3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n";
        for end in 0..whole.len() {
            let (body, trailers) = decoded(&whole[..end]).unwrap();
            assert!(b"abcde".starts_with(&body) && trailers.is_none(), "{:?}", &whole[..end]);
        }
        let (body, trailers) = decoded(whole).unwrap();
        assert_eq!(
            (&body[..], &trailers.unwrap()["x-sum"]),
            (&b"abcde"[..], &"1".parse().unwrap())
        );
    }

    #[test]
    fn an_end_that_is_here_is_seen_with_the_last_chunk() {
        for (behind, is_over) in
            [("\r\n0\r\n\r\n", true), ("\r\n0\r\nx: y\r\n\r\n", false), ("\r\n", false)]
        {
            let mut bytes = BytesMut::from(format!("1\r\na{behind}").as_str());
            let mut decoder = Decoder::default();
            assert_eq!(decoder.step(&mut bytes), Ok(Step::Data(Bytes::from_static(b"a"))));
            assert_eq!(decoder.is_over(), is_over, "{behind:?}");
        }
    }

    #[test]
    fn what_another_reader_might_read_otherwise_is_refused() {
        let long = "x".repeat(MAX_EXTENSIONS);
        let many = format!("1;{}\r\na\r\n", "x".repeat(MAX_EXTENSIONS / 8)).repeat(9);
        let refused = [
            ("\r\n", Invalid::ChunkSize),
            ("x\r\n", Invalid::ChunkSize),
            ("-1\r\n", Invalid::ChunkSize),
            ("0x1\r\na\r\n", Invalid::ChunkSize),
            ("1\na\r\n", Invalid::ChunkSize),
            ("1\r\r\na\r\n", Invalid::ChunkSize),
            ("1;a\rb\r\na\r\n", Invalid::ChunkSize),
            ("1 1\r\na\r\n", Invalid::ChunkSize),
            ("10000000000000000\r\n", Invalid::ChunkSize),
            (&long, Invalid::ChunkSize),
            (&many, Invalid::ChunkExtensions),
            ("1\r\nab\r\n", Invalid::ChunkEnd),
            ("1\r\na\n", Invalid::ChunkEnd),
            ("0\r\nx: y\n\r\n", Invalid::Trailers),
            ("0\r\nx y\r\n\r\n", Invalid::Trailers),
            (&format!("0\r\nx: {long}{long}"), Invalid::Trailers),
            (&format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_FIELDS + 1)), Invalid::Trailers),
        ];
        for (bytes, invalid) in refused {
            let shown: String = bytes.chars().take(40).collect();
            assert_eq!(decoded(bytes), Err(invalid), "{shown:?}");
        }
    }
}
