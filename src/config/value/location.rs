//! Where a redirect leads.

use std::net::Ipv6Addr;

use super::{Fault, ParamName, pattern};
use crate::middleware::headers::{Part, Template};

/// Path and query of two requests, which must lead to one host. Values are encoded when they are put
/// in, so that one is as good as another.
const SAMPLES: [(&str, &str); 2] = [("/1", "1"), ("/2", "2")];
/// Also a port.
const NAMED: &str = "1";
const HOST: &str = "shop.example.com";
const HELP: &str = "write a URL or a path: `https://shop.example.com{path}`";

/// A URI reference (RFC 3986, 4.1) with `{path}`, `{query}`, the names of the route's path template,
/// and `{host}`, unless the path template has that name itself.
pub fn location(text: &str, params: &[ParamName]) -> Result<Template, Fault> {
    let template = pattern::with_host(text, params)?;
    if text.is_empty() {
        return Err(Fault::new("a redirect to nowhere").help(HELP));
    }
    for part in &template.0 {
        if let Part::Text(text) = part {
            check_characters(text)?;
        }
    }
    let texts = SAMPLES.map(|(path, query)| fill(&template, path, query));
    let [one, other] = &texts;
    if authority(one)? != authority(other)? {
        let fault = Fault::new("the path or query of a request would choose the host");
        return Err(fault.help(HELP));
    }
    Ok(template)
}

/// The template as a client would get it.
fn fill(template: &Template, path: &str, query: &str) -> String {
    let values = template.0.iter().map(|part| match part {
        Part::Text(text) => text,
        Part::Host => HOST,
        Part::Path => path,
        Part::Query => query,
        Part::Param(_) => NAMED,
    });
    let text: String = values.collect();
    match template.0.first() {
        Some(Part::Text(_)) | None => text,
        Some(_) => format!("/{}", text.trim_start_matches('/')),
    }
}

/// The user, host and port in a text of valid characters, or what keeps it from being a URI
/// reference. `http` and `https` have a host (RFC 9110, 4.2), and so has a reference that takes its
/// scheme from them.
fn authority(text: &str) -> Result<Option<&str>, Fault> {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if !scheme.contains('/') => (Some(scheme), rest),
        _ => (None, text),
    };
    if let Some(scheme) = scheme.filter(|scheme| !is_scheme(scheme)) {
        return Err(Fault::new(format!("`{scheme}` is not the scheme of a URL"))
            .help("a path with `:` in its first segment starts with `/` or `./`"));
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, rest),
    };
    if let Some(out_of_place) = [path, query, fragment]
        .iter()
        .find_map(|part| part.chars().find(|c| matches!(c, '[' | ']' | '#')))
    {
        return Err(misplaced(out_of_place));
    }
    let is_http = scheme.is_none_or(|scheme| {
        scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
    });
    match authority {
        Some(authority) => check_authority(authority, is_http)?,
        None if is_http && scheme.is_some() => {
            return Err(Fault::new("this URL has no host").help(HELP));
        }
        None => {}
    }
    Ok(authority)
}

/// Only characters of a URI, and complete escapes (RFC 3986, 2).
fn check_characters(text: &str) -> Result<(), Fault> {
    for (at, c) in text.char_indices() {
        if c == '%' {
            let digits = text.as_bytes().get(at + 1..at + 3).unwrap_or_default();
            if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
                return Err(Fault::new("`%` is followed by two hexadecimal digits in a URL")
                    .help("write `%25` for the character itself"));
            }
        } else if !c.is_ascii_alphanumeric() && !"-._~:/?#[]@!$&'()*+,;=".contains(c) {
            return Err(misplaced(c));
        }
    }
    Ok(())
}

fn misplaced(c: char) -> Fault {
    let mut bytes = [0; 4];
    let encoded = c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}"));
    let help = format!("write `{}`", encoded.collect::<Vec<_>>().concat());
    match c {
        ' ' => Fault::new("a URL has no spaces").help(help),
        c if c.is_control() => {
            Fault::new("a URL has no control characters").help(format!("remove it, or {help}"))
        }
        c => Fault::new(format!("`{c}` cannot stand here in a URL")).help(help),
    }
}

/// RFC 3986, 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// RFC 3986, 3.2.
fn check_authority(text: &str, needs_host: bool) -> Result<(), Fault> {
    let (user, host_port) = text.rsplit_once('@').unwrap_or(("", text));
    let bracketed = host_port.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = bracketed
        .unwrap_or_else(|| host_port.split_at(host_port.find(':').unwrap_or(host_port.len())));
    let is_host = if bracketed.is_some() {
        host.parse::<Ipv6Addr>().is_ok()
    } else {
        !host.contains(['[', ']']) && (!host.is_empty() || !needs_host)
    };
    if user.contains(['[', ']', '@']) || !is_host {
        return Err(Fault::new(format!("`{host_port}` is not the host of a URL")).help(HELP));
    }
    let is_port = match port.strip_prefix(':') {
        Some(number) => {
            number.bytes().all(|b| b.is_ascii_digit())
                && (number.is_empty() || number.parse::<u16>().is_ok_and(|port| port > 0))
        }
        None => port.is_empty(),
    };
    if is_port {
        Ok(())
    } else {
        Err(Fault::new(format!("`{host_port}` has no valid port")).help("from 1 to 65535"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Fault {
        location(text, &["id".into()]).expect_err(text)
    }

    #[test]
    fn any_uri_reference_is_a_location() {
        for text in [
            "/",
            "..",
            "?{query}",
            "#top",
            "{path}",
            "{host}",
            "{query}",
            "{id}:{id}",
            "./a:b",
            "a/b:c",
            "//cdn.example.com{path}",
            "https://shop.example.com{path}?{query}#top/of?{id}",
            "https://{host}:8443{path}",
            "https://{id}.example.com:{id}/",
            "HTTPS://[2001:db8::1]:8443/%C3%A9?a=%20",
            "https://me@shop.example.com",
            "https://shop.example.com:",
            "https://shop.example.com?a",
            "com.example.app:/callback",
            "mailto:shop@example.com",
            "file:///etc",
            "/a//b;c=d,e'(f)*!$&+~:@",
        ] {
            assert!(location(text, &["id".into()]).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_character_that_has_to_be_encoded_is_told_with_its_code() {
        for (text, help) in [
            ("/a b", "write `%20`"),
            (" /a", "write `%20`"),
            ("/a\n", "remove it, or write `%0A`"),
            ("/a\u{7f}", "remove it, or write `%7F`"),
            ("/caf\u{e9}", "write `%C3%A9`"),
            ("https://a\\b/", "write `%5C`"),
            ("/a|b", "write `%7C`"),
            ("/a#b#c", "write `%23`"),
            ("/a?b[0]=c", "write `%5B`"),
            ("/100%", "write `%25` for the character itself"),
            ("/%2", "write `%25` for the character itself"),
            ("/%zz{id}", "write `%25` for the character itself"),
            ("/%{id}0", "write `%25` for the character itself"),
            ("/%\u{e9}", "write `%25` for the character itself"),
        ] {
            assert_eq!(fault(text).help.as_deref(), Some(help), "{text}");
        }
    }

    #[test]
    fn a_url_has_a_scheme_a_host_and_a_port_that_exist() {
        for text in [
            "",
            ":",
            "1:a",
            "a_b:c",
            "https:",
            "https:/shop.example.com",
            "https:shop.example.com",
            "https://",
            "https:///a",
            "https://:8443/",
            "//",
            "https://[::1/",
            "https://[1]/",
            "https://[::1]8443/",
            "https://a]/",
            "https://a@b@c/",
            "https://a:b/",
            "https://a:99999/",
            "https://a:0/",
            "https://a:-1/",
            "https://a:+1/",
        ] {
            fault(text);
        }
    }

    #[test]
    fn a_path_does_not_choose_the_host() {
        for text in ["/{path}", "//{path}", "https:{path}", "https:/{path}", "https://a{query}"] {
            fault(text);
        }
    }
}
