//! URLs as Go reads them (net/url), with its errors.
//!
//! Invariant: what is taken and what is refused, and in which words, is Go's choice, not that of a standard.

use std::fmt;
use std::net::IpAddr;

use super::show;

/// The parts of a URL that are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// In lower case; empty where there is none.
    pub scheme: String,
    /// Who, escaped again, with a password behind a colon.
    pub user: Option<String>,
    /// Host and port as they stand there.
    pub host: &'a str,
    /// What follows the question mark, as it stands there.
    pub query: &'a str,
    /// What follows the hash, unescaped.
    pub fragment: String,
}

/// Why a text is no URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Control,
    NoScheme,
    Colon,
    User,
    Escape(String),
    Host(char),
    Port(String),
    Bracket,
    Literal,
    Address(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("net/url: invalid control character in URL"),
            Self::NoScheme => f.write_str("missing protocol scheme"),
            Self::Colon => f.write_str("first path segment in URL cannot contain colon"),
            Self::User => f.write_str("net/url: invalid userinfo"),
            Self::Escape(text) => write!(f, "invalid URL escape {}", show::quoted(text)),
            Self::Host(letter) => write!(f, "invalid character {} in host name", show::quoted(&letter.to_string())),
            Self::Port(text) => write!(f, "invalid port {} after host", show::quoted(text)),
            Self::Bracket => f.write_str("missing ']' in host"),
            Self::Literal => f.write_str("invalid IP-literal"),
            Self::Address(text) => write!(f, "invalid host: ParseAddr({}): unable to parse IP", show::quoted(text)),
        }
    }
}

impl<'a> Url<'a> {
    /// Reads a URL.
    ///
    /// # Errors
    /// Where Go takes the text for none.
    pub fn parse(text: &'a str) -> Result<Self, Problem> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = Self::without_fragment(text)?;
        url.fragment = unescape(fragment, Part::Fragment)?;
        Ok(url)
    }

    fn without_fragment(text: &'a str) -> Result<Self, Problem> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(Problem::Control);
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            user: None,
            host: "",
            query,
            fragment: String::new(),
        };
        if !rest.starts_with('/') {
            if !scheme.is_empty() {
                return Ok(url); // Opaque.
            }
            if rest.split('/').next().is_some_and(|first| first.contains(':')) {
                return Err(Problem::Colon);
            }
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//")
            && (!scheme.is_empty() || !authority.starts_with('/'))
        {
            let (authority, behind) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            let (user, host) = authority
                .rsplit_once('@')
                .map_or((None, authority), |(user, host)| (Some(user), host));
            check_host(host)?;
            url.host = host;
            url.user = user.map(self::user).transpose()?;
            path = behind;
        }
        unescape(path, Part::Path)?;
        Ok(url)
    }
}

/// The scheme, and what follows its colon.
fn scheme(text: &str) -> Result<(&str, &str), Problem> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err(Problem::NoScheme),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

/// Who, as Go prints it again.
fn user(text: &str) -> Result<String, Problem> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !text.bytes().all(known) {
        return Err(Problem::User);
    }
    let again = |part: &str| -> Result<String, Problem> {
        let mut out = String::new();
        for byte in unescape(part, Part::User)?.bytes() {
            match byte {
                byte if byte.is_ascii_alphanumeric() || b"-_.~$&+,;=".contains(&byte) => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(out)
    };
    match text.split_once(':') {
        Some((name, password)) => Ok(format!("{}:{}", again(name)?, again(password)?)),
        None => again(text),
    }
}

fn check_host(host: &str) -> Result<(), Problem> {
    let port = |text: &str| match text.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    };
    match host.rfind('[') {
        Some(0) => {
            let end = host.rfind(']').ok_or(Problem::Bracket)?;
            let behind = &host[end + 1..];
            if !port(behind) {
                return Err(Problem::Port(behind.to_owned()));
            }
            let (address, zone) = host[1..end].split_once("%25").unwrap_or((&host[1..end], ""));
            let address = unescape(address, Part::Host)?;
            let zone = unescape(zone, Part::Zone)?;
            match address.parse() {
                Ok(IpAddr::V6(_)) => Ok(()),
                Ok(IpAddr::V4(_)) if zone.is_empty() => Err(Problem::Literal),
                _ => Err(Problem::Address(address)),
            }
        }
        Some(_) => Err(Problem::Literal),
        None => {
            if let Some(colon) = host.rfind(':')
                && !port(&host[colon..])
            {
                return Err(Problem::Port(host[colon..].to_owned()));
            }
            unescape(host, Part::Host).map(drop)
        }
    }
}

/// What is unescaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    User,
    Host,
    Zone,
    Fragment,
}

fn unescape(text: &str, part: Part) -> Result<String, Problem> {
    let bytes = text.as_bytes();
    let host = matches!(part, Part::Host | Part::Zone);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!$&'()*+,;=:[]<>\"-_.~".contains(&byte);
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        if byte == b'%' {
            let wrong = || Problem::Escape(text[index..text.floor_char_boundary((index + 3).min(text.len()))].to_owned());
            let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(index + 1), digit(index + 2)) else {
                return Err(wrong());
            };
            let made = u8::try_from(high * 16 + low).unwrap_or_default();
            // Of a host only what is no ASCII may be escaped, in a zone also what a host could have.
            let allowed = match part {
                Part::Host => high >= 8 || made == b'%',
                Part::Zone => made == b'%' || made == b' ' || plain(made),
                _ => true,
            };
            if !allowed {
                return Err(wrong());
            }
            out.push(made);
            index += 3;
            continue;
        }
        if host && byte.is_ascii() && !plain(byte) {
            return Err(Problem::Host(char::from(byte)));
        }
        out.push(byte);
        index += 1;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_a_stock_server_reads_them() {
        // Each was shown to a stock server as the address of a webhook.
        for (text, problem) in [
            ("https://a b/", "invalid character \" \" in host name"),
            ("https://a:x/", "invalid port \":x\" after host"),
            ("https://[::1", "missing ']' in host"),
            ("https://[::1]x/", "invalid port \"x\" after host"),
            ("https://h/%zz", "invalid URL escape \"%zz\""),
            ("%zz://h", "first path segment in URL cannot contain colon"),
            ("1http://x", "first path segment in URL cannot contain colon"),
            ("2001:db8::1", "first path segment in URL cannot contain colon"),
            (":x", "missing protocol scheme"),
            ("https://u:%zz@h/", "invalid URL escape \"%zz\""),
            ("https://u p@h/", "net/url: invalid userinfo"),
            ("https://h#%zz", "invalid URL escape \"%zz\""),
            ("https://h%20/", "invalid URL escape \"%20\""),
            ("https://[fe80::1%en0]/", "invalid URL escape \"%en\""),
            ("https://h\u{1}/", "net/url: invalid control character in URL"),
            ("https://[a]b:80/", "invalid port \"b:80\" after host"),
            ("https://a|b/", "invalid character \"|\" in host name"),
            ("https://h/x%", "invalid URL escape \"%\""),
            ("https://[]", "invalid host: ParseAddr(\"\"): unable to parse IP"),
            ("https://a[b/", "invalid IP-literal"),
        ] {
            assert_eq!(Url::parse(text).unwrap_err().to_string(), problem, "{text}");
        }
        for (text, scheme, user, host, query, fragment) in [
            ("https://", "https", None, "", "", ""),
            ("https://:1", "https", None, ":1", "", ""),
            ("https://[::1]:99", "https", None, "[::1]:99", "", ""),
            ("https://[fe80::1%25en0]/", "https", None, "[fe80::1%25en0]", "", ""),
            ("https://h/a b", "https", None, "h", "", ""),
            ("a:b", "a", None, "", "", ""),
            ("HTTPS://h", "https", None, "h", "", ""),
            ("https:///x", "https", None, "", "", ""),
            ("https://u:p@h/", "https", Some("u:p"), "h", "", ""),
            ("https://u@@h/", "https", Some("u%40"), "h", "", ""),
            ("https://@h/", "https", Some(""), "h", "", ""),
            ("https://h?a b", "https", None, "h", "a b", ""),
            ("https://h#a%20b", "https", None, "h", "", "a b"),
            ("https://h?x=1#f", "https", None, "h", "x=1", "f"),
            ("*", "", None, "", "", ""),
            ("//h/x", "", None, "h", "", ""),
            ("a/b:c", "", None, "", "", ""),
            ("https://a<b/", "https", None, "a<b", "", ""),
            ("https://a]/", "https", None, "a]", "", ""),
        ] {
            let expected = Url {
                scheme: scheme.to_owned(),
                user: user.map(str::to_owned),
                host,
                query,
                fragment: fragment.to_owned(),
            };
            assert_eq!(Url::parse(text).unwrap(), expected, "{text}");
        }
    }
}
