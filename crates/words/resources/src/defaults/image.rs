//! What an image reference says, as far as defaults ask: its tag (github.com/distribution/reference).
//!
//! Invariant: `None` is what upstream's parser refuses; then nothing is known of the tag, and the default is not to pull
//! always.

const PATH_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// The tag of an image reference: `latest` where it has neither a tag nor a digest, empty where it has a digest alone.
pub(super) fn tag(image: &str) -> Option<&str> {
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    if hex(image, 64) {
        return None; // an identifier
    }
    let (domain, rest) = split_domain(image);
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let inner_domain = domain.is_none_or(|domain| is_domain(domain) || is_component(domain));
    if !inner_domain || path.len() > PATH_BYTES_MAX || !path.split('/').all(is_component) {
        return None;
    }
    if !tag.is_none_or(is_tag) {
        return None;
    }
    if let Some(digest) = digest {
        let (algorithm, encoded) = digest.split_once(':')?;
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return None,
        };
        return hex(encoded, length).then_some(tag.unwrap_or_default());
    }
    Some(tag.unwrap_or("latest"))
}

/// The registry, where the reference names one, and what comes after it.
fn split_domain(image: &str) -> (Option<&str>, &str) {
    match image.split_once('/') {
        Some((domain, rest))
            if domain == "localhost" || domain.contains(['.', ':']) || domain.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(domain), rest)
        }
        _ => (None, image),
    }
}

/// Host names in any case or an IPv6 address in brackets, with a port or without.
fn is_domain(domain: &str) -> bool {
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => domain,
    };
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// Small letters and digits, parted by one dot, one or two underscores, or dashes.
fn is_component(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !inside(*first) || !inside(*last) {
        return false;
    }
    bytes
        .split(|byte| inside(*byte))
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_where_the_reference_is_one() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (image, want) in [
            ("nginx", Some("latest")),
            ("nginx:1", Some("1")),
            ("a__b/c-d:latest", Some("latest")),
            ("Host/nginx", Some("latest")),
            ("host:5000/nginx", Some("latest")),
            ("[::1]:5000/nginx:2", Some("2")),
            ("192.0.2.1/nginx", Some("latest")),
            ("/a/../b", None),
            ("-a", None),
            ("a b", None),
            ("Nginx", None),
            ("nginx:", None),
            ("nginx:-", None),
            ("a___b", None),
            ("", None),
            ("http://a", None),
        ] {
            assert_eq!(tag(image), want, "{image}");
        }
        assert_eq!(tag(&format!("nginx@{digest}")), Some(""));
        assert_eq!(tag(&format!("nginx:latest@{digest}")), Some("latest"));
        assert_eq!(tag("nginx@sha256:abc"), None);
        assert_eq!(tag(&"a".repeat(64)), None);
    }
}
