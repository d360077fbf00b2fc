//! URLs, as Go's package net/url reads them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::error::{Evaluated, refused};
use super::show::quoted;

/// A URL.
#[derive(Clone, Debug)]
pub struct Url {
    pub(crate) scheme: String,
    opaque: String,
    user: Option<String>,
    pub(crate) host: String,
    raw_path: String,
    path: Vec<u8>,
    query: Option<String>,
    fragment: Option<String>,
}

/// The value that Go's unescaping gives, or the part that is no escape.
fn unescaped(text: &str, plus: bool) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut made = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digit = |index: usize| bytes.get(index).and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    let wrong = &bytes[at..bytes.len().min(at + 3)];
                    return Err(format!("invalid URL escape {}", quoted(&String::from_utf8_lossy(wrong))));
                };
                made.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            b'+' if plus => {
                made.push(b' ');
                at += 1;
            }
            byte => {
                made.push(byte);
                at += 1;
            }
        }
    }
    Ok(made)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn host(text: &str) -> Result<String, String> {
    let port = if text.starts_with('[') {
        let Some(end) = text.rfind(']') else {
            return Err("missing ']' in host".into());
        };
        &text[end + 1..]
    } else {
        text.rfind(':').map_or("", |at| &text[at..])
    };
    if !is_port(port) {
        return Err(format!("invalid port {} after host", quoted(port)));
    }
    for letter in text.chars().filter(char::is_ascii) {
        let fits = letter.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(letter);
        if !fits {
            return Err(format!("invalid character {} in host name", quoted(&letter.to_string())));
        }
    }
    if let Some(at) = text.find('%') {
        let part: String = text[at..].chars().take(3).collect();
        let zone = text.starts_with('[') && part == "%25";
        if !zone && unescaped(&part, false).is_ok_and(|bytes| bytes.first().is_some_and(u8::is_ascii)) {
            return Err(format!("invalid URL escape {}", quoted(&part)));
        }
    }
    unescaped(text, false).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl Url {
    /// The URL that a text is; with `request`, as the first line of a request has it.
    fn read(text: &str, request: bool) -> Result<Self, String> {
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".into());
        }
        if text.is_empty() && request {
            return Err("empty url".into());
        }
        let mut url = Self {
            scheme: String::new(),
            opaque: String::new(),
            user: None,
            host: String::new(),
            raw_path: String::new(),
            path: Vec::new(),
            query: None,
            fragment: None,
        };
        if text == "*" {
            (url.raw_path, url.path) = ("*".into(), b"*".to_vec());
            return Ok(url);
        }
        let (found, rest) = scheme(text)?;
        url.scheme = found.to_ascii_lowercase();
        let (mut rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        url.query = query.map(str::to_owned);
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                url.opaque = rest.into();
                return Ok(url);
            }
            if request {
                return Err("invalid URI for request".into());
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        if (!url.scheme.is_empty() || !request && !rest.starts_with("///"))
            && let Some(after) = rest.strip_prefix("//")
        {
            let end = after.find('/').unwrap_or(after.len());
            let authority = &after[..end];
            rest = &after[end..];
            let (user, named) = authority
                .rsplit_once('@')
                .map_or((None, authority), |(user, host)| (Some(user), host));
            url.host = host(named)?;
            if let Some(user) = user {
                let fits = |letter: char| letter.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(letter);
                if !user.chars().all(fits) {
                    return Err("net/url: invalid userinfo".into());
                }
                url.user = Some(user.into());
            }
        }
        url.path = unescaped(rest, false)?;
        url.raw_path = rest.into();
        Ok(url)
    }

    fn told<T>(text: &str, read: Result<T, String>) -> Result<T, String> {
        read.map_err(|why| format!("parse {}: {why}", quoted(text)))
    }

    /// What is wrong with a text that should be the URI of a request.
    pub(crate) fn fault(text: &str) -> Option<String> {
        Self::told(text, Self::read(text, true)).err()
    }

    /// The URL that a text is.
    pub(crate) fn parse(text: &str) -> Evaluated<Self> {
        let (main, fragment) = text
            .split_once('#')
            .map_or((text, None), |(main, fragment)| (main, Some(fragment)));
        let read = Self::told(text, Self::read(text, true)).and_then(|_| Self::told(main, Self::read(main, false)));
        match read {
            Ok(url) => match fragment.map(|fragment| unescaped(fragment, false)) {
                Some(Err(why)) => refused(format!(
                    "URL parse error during conversion from string: parse {}: {why}",
                    quoted(text)
                )),
                _ => Ok(Self {
                    fragment: fragment.map(str::to_owned),
                    ..url
                }),
            },
            Err(why) => refused(format!("URL parse error during conversion from string: {why}")),
        }
    }

    /// The host without its port, and the port.
    pub(crate) fn host_and_port(&self) -> (&str, &str) {
        let (host, port) = match self.host.rfind(':') {
            Some(at) if is_port(&self.host[at..]) => (&self.host[..at], &self.host[at + 1..]),
            _ => (self.host.as_str(), ""),
        };
        (
            host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host),
            port,
        )
    }

    /// The path, escaped.
    pub(crate) fn escaped_path(&self) -> String {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte);
        if self.raw_path.bytes().all(fits) {
            return self.raw_path.clone();
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
        let mut made = String::new();
        for byte in &self.path {
            if plain(*byte) {
                made.push(char::from(*byte));
            } else {
                made.push_str(&format!("%{byte:02X}"));
            }
        }
        made
    }

    /// The values of each name in the query.
    pub(crate) fn query(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let query = self.query.as_deref().unwrap_or_default();
        for part in query.split('&').filter(|part| !part.is_empty() && !part.contains(';')) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let text = |text: &str| unescaped(text, true).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            if let (Ok(name), Ok(value)) = (text(name), text(value)) {
                all.entry(name).or_default().push(value);
            }
        }
        all
    }
}

impl Display for Url {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(out, "{}:", self.scheme)?;
        }
        if self.opaque.is_empty() {
            if !self.scheme.is_empty() && (!self.host.is_empty() || !self.path.is_empty())
                || !self.host.is_empty()
                || self.user.is_some()
            {
                if !self.host.is_empty() || !self.path.is_empty() || self.user.is_some() {
                    write!(out, "//")?;
                }
                if let Some(user) = &self.user {
                    write!(out, "{user}@")?;
                }
                write!(out, "{}", self.host)?;
            }
            write!(out, "{}", self.escaped_path())?;
        } else {
            write!(out, "{}", self.opaque)?;
        }
        if let Some(query) = &self.query {
            write!(out, "?{query}")?;
        }
        match &self.fragment {
            Some(fragment) if !fragment.is_empty() => write!(out, "#{fragment}"),
            _ => Ok(()),
        }
    }
}
