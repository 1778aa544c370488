//! The head of an answer over HTTP/1.1: how long the answer is, and whether it is a good one.

use std::io;

/// What an answer says.
#[derive(Clone, Copy)]
pub enum Reply {
    /// 2xx.
    Good,
    /// Anything else.
    Bad,
}

/// The length of the answer that begins here, head and body, once its head is whole.
pub fn reply(bytes: &[u8]) -> io::Result<Option<(usize, Reply)>> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    let body = length(head).ok_or_else(|| {
        io::Error::other(format!("no content-length: {}", String::from_utf8_lossy(head)))
    })?;
    let reply = if head.starts_with(b"HTTP/1.1 2") { Reply::Good } else { Reply::Bad };
    Ok(Some((end + 4 + body, reply)))
}

/// What `content-length` says.
pub fn length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\ncontent-length:";
    let at = head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME))?;
    let value = head[at + NAME.len()..].iter().skip_while(|byte| **byte == b' ');
    let digits = value.take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}
