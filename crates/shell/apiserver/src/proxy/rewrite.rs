//! Links of a proxied answer that lead to the backend itself are made to lead through the proxy: its `Location` and the
//! URL attributes of HTML.
//!
//! Invariant: what is not understood stays as it is; only what names the backend's own host, or no host, is changed.

/// What leads to the backend and what to put before its paths.
pub(super) struct Links<'a> {
    /// Path of the proxy subresource, without a slash at its end.
    pub(super) prefix: &'a str,
    /// The backend as it stands in URLs.
    pub(super) backend: &'a str,
    /// What the client called this server, by its `Host` header.
    pub(super) called: &'a str,
}

/// Elements and those of their attributes that are URLs.
const URL_ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const RAW_TEXT: &[&str] = &[
    "iframe",
    "noembed",
    "noframes",
    "noscript",
    "plaintext",
    "script",
    "style",
    "textarea",
    "title",
    "xmp",
];

impl Links<'_> {
    /// A URL as the client is to see it; `None` where it is none, or stays.
    pub(super) fn rewrite(&self, url: &str) -> Option<String> {
        if url.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return None;
        }
        let (before_fragment, fragment) = url
            .split_once('#')
            .map_or((url, ""), |(before, _)| (before, &url[before.len()..]));
        let (whole, query) = before_fragment.split_once('?').map_or((before_fragment, ""), |(before, _)| {
            (before, &before_fragment[before.len()..])
        });
        let behind_scheme = match whole.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => rest,
            _ => whole,
        };
        let (host, path) = match behind_scheme.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let authority = &rest[..end];
                (authority.rsplit_once('@').map_or(authority, |(_, host)| host), &rest[end..])
            }
            None => ("", behind_scheme),
        };
        let elsewhere = !host.is_empty() && host != self.backend && host != self.called;
        if elsewhere || !path.starts_with('/') {
            return None;
        }
        if path.starts_with(self.prefix) {
            return Some(format!("{path}{query}{fragment}"));
        }
        let mut joined = super::forward::clean_path(&format!("{}{path}", self.prefix));
        if path.ends_with('/') && !joined.ends_with('/') {
            joined.push('/');
        }
        Some(format!("{joined}{query}{fragment}"))
    }

    /// HTML with its links rewritten.
    pub(super) fn rewrite_html(&self, html: &str) -> String {
        let mut out = String::with_capacity(html.len() + 256);
        let mut rest = html;
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                let end = comment.find("-->").map_or(rest.len(), |end| end + "<!---->".len());
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            if !rest[1..].starts_with(|one: char| one.is_ascii_alphabetic()) {
                out.push('<');
                rest = &rest[1..];
                continue;
            }
            let Some(tag) = Tag::parse(rest) else {
                // The text ends within this tag. Going on behind its first letter would take time squared.
                break;
            };
            rest = &rest[tag.length..];
            self.write_tag(&tag, &mut out);
            if RAW_TEXT.contains(&tag.name.as_str()) && !tag.closed {
                let end = end_of_raw_text(rest, &tag.name);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        out.push_str(rest);
        out
    }

    fn write_tag(&self, tag: &Tag, out: &mut String) {
        let urls = URL_ATTRIBUTES
            .iter()
            .find(|(name, _)| *name == tag.name)
            .map_or(&[][..], |(_, urls)| *urls);
        out.push('<');
        out.push_str(&tag.name);
        for (name, value) in &tag.attributes {
            let rewritten = if urls.contains(&name.as_str()) {
                self.rewrite(value)
            } else {
                None
            };
            out.push(' ');
            out.push_str(name);
            out.push_str("=\"");
            escape(rewritten.as_deref().unwrap_or(value), out);
            out.push('"');
        }
        out.push_str(if tag.closed { "/>" } else { ">" });
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || matches!(one, '+' | '-' | '.'))
}

/// A start tag.
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
    closed: bool,
    length: usize,
}

impl Tag {
    /// The start tag at the beginning of a text, if one is there and whole.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text
            .strip_prefix('<')
            .filter(|rest| rest.starts_with(|one: char| one.is_ascii_alphabetic()))?;
        let end = rest.find(|one: char| one.is_ascii_whitespace() || matches!(one, '/' | '>'))?;
        let name = rest[..end].to_ascii_lowercase();
        rest = &rest[end..];
        let mut attributes = Vec::new();
        let mut closed = false;
        loop {
            rest = rest.trim_start_matches(|one: char| one.is_ascii_whitespace());
            if let Some(behind) = rest.strip_prefix('>') {
                return Some(Self {
                    name,
                    attributes,
                    closed,
                    length: text.len() - behind.len(),
                });
            }
            if let Some(behind) = rest.strip_prefix('/') {
                closed = behind.starts_with('>');
                rest = behind;
                continue;
            }
            let end = rest
                .char_indices()
                .find(|(at, one)| *at > 0 && (one.is_ascii_whitespace() || matches!(one, '=' | '/' | '>')))?
                .0;
            let key = rest[..end].to_ascii_lowercase();
            rest = rest[end..].trim_start_matches(|one: char| one.is_ascii_whitespace());
            let mut value = "";
            if let Some(behind) = rest.strip_prefix('=') {
                let behind = behind.trim_start_matches(|one: char| one.is_ascii_whitespace());
                let quote = behind.chars().next().filter(|one| matches!(one, '"' | '\''));
                if let Some(quote) = quote {
                    let end = behind[1..].find(quote)?;
                    value = &behind[1..=end];
                    rest = &behind[end + 2..];
                } else {
                    let end = behind.find(|one: char| one.is_ascii_whitespace() || one == '>')?;
                    value = &behind[..end];
                    rest = &behind[end..];
                }
            }
            attributes.push((key, unescape(value)));
        }
    }
}

/// Where the end tag of an element of raw text begins.
fn end_of_raw_text(text: &str, name: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("</") {
        let at = from + at;
        let behind = text.as_bytes().get(at + 2..at + 2 + name.len());
        if behind.is_some_and(|behind| behind.eq_ignore_ascii_case(name.as_bytes())) {
            return at;
        }
        from = at + 2;
    }
    text.len()
}

const ENTITIES: &[(&str, char)] = &[
    ("&amp;", '&'),
    ("&#39;", '\''),
    ("&#34;", '"'),
    ("&quot;", '"'),
    ("&lt;", '<'),
    ("&gt;", '>'),
];

/// The characters that attributes must escape, read back; rarer entities stay as they are, which only keeps them as they were.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match ENTITIES.iter().find(|(entity, _)| rest.starts_with(entity)) {
            Some((entity, character)) => {
                out.push(*character);
                rest = &rest[entity.len()..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: Links<'static> = Links {
        prefix: "/api/v1/namespaces/n/pods/p:80/proxy",
        backend: "10.42.0.7:80",
        called: "api.example:6443",
    };

    #[test]
    fn links_to_the_backend_lead_through_the_proxy() {
        let prefix = LINKS.prefix;
        for (url, expected) in [
            ("/a", Some(format!("{prefix}/a"))),
            ("/", Some(format!("{prefix}/"))),
            ("/a/?q=1#f", Some(format!("{prefix}/a/?q=1#f"))),
            ("http://10.42.0.7:80/a", Some(format!("{prefix}/a"))),
            ("https://api.example:6443/a", Some(format!("{prefix}/a"))),
            ("//api.example:6443/a/../b", Some(format!("{prefix}/b"))),
            ("http://elsewhere.example/a", None),
            ("relative", None),
            ("?q", None),
            ("mailto:a@b", None),
        ] {
            assert_eq!(LINKS.rewrite(url), expected, "{url}");
        }
        let own = format!("{prefix}/there");
        assert_eq!(LINKS.rewrite(&own), Some(own.clone()));
    }

    #[test]
    fn html_keeps_everything_but_its_links() {
        let prefix = LINKS.prefix;
        for (html, expected) in [
            (
                r#"<a href="/rewriteme">test</a>"#,
                format!(r#"<a href="{prefix}/rewriteme">test</a>"#),
            ),
            ("<A HREF=/x>t</A>", format!(r#"<a href="{prefix}/x">t</A>"#)),
            ("<img src='/i.png'/>", format!(r#"<img src="{prefix}/i.png"/>"#)),
            (r#"<p class="/x">a < b</p>"#, r#"<p class="/x">a < b</p>"#.to_owned()),
            ("<!-- <a href=\"/x\"> --><b>", "<!-- <a href=\"/x\"> --><b>".to_owned()),
            (
                "<script>'<a href=\"/x\">'</script>",
                "<script>'<a href=\"/x\">'</script>".to_owned(),
            ),
            ("<a href=\"/x?a=1&amp;b\">", format!("<a href=\"{prefix}/x?a=1&amp;b\">")),
            ("<a href=\"/unfinished", "<a href=\"/unfinished".to_owned()),
            ("<a download href=\"/x\">", format!("<a download=\"\" href=\"{prefix}/x\">")),
        ] {
            assert_eq!(LINKS.rewrite_html(html), expected, "{html}");
        }
    }
}
