//! Image references: `nginx` means `docker.io/library/nginx:latest`. Pure.

/// A parsed, normalised reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// `docker.io`, `localhost:5000`.
    pub(crate) registry: String,
    /// `library/nginx`.
    pub(crate) repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub(crate) tag: Option<String>,
    /// `sha256:…`.
    pub(crate) digest: Option<String>,
}

impl Name {
    /// Parses; the error text says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("couldn't parse image name \"{text}\": invalid reference format");
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (path, tag) = match rest[slash..].find(':') {
            Some(at) => (&rest[..slash + at], Some(&rest[slash + at + 1..])),
            None => (rest, None),
        };
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
            _ => ("docker.io", path.to_owned()),
        };
        let (registry, repository) = match registry {
            "docker.io" | "index.docker.io" if !repository.contains('/') => ("docker.io", format!("library/{repository}")),
            "index.docker.io" => ("docker.io", repository),
            _ => (registry, repository),
        };
        let part_fine = |part: &str| {
            let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            edge(part.bytes().next())
                && edge(part.bytes().last())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
        };
        let tag_fine = |tag: &str| {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            tag.len() <= 128
                && tag.bytes().next().is_some_and(word)
                && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
        };
        let fine = repository.len() <= 255
            && repository.split('/').all(part_fine)
            && registry
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
            && tag.is_none_or(tag_fine)
            && digest.is_none_or(is_digest);
        if !fine {
            return Err(invalid());
        }
        let tag = tag
            .map(str::to_owned)
            .or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Name {
            registry: registry.to_owned(),
            repository,
            tag,
            digest: digest.map(str::to_owned),
        })
    }

    /// `docker.io/library/nginx`.
    pub(crate) fn base(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `docker.io/library/nginx:latest`, if it has a tag.
    pub(crate) fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.base()))
    }

    /// `docker.io/library/nginx@sha256:…`, if it has a digest.
    pub(crate) fn digested(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{}@{digest}", self.base()))
    }

    /// Whether the registry is this machine, and so may speak plain HTTP.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(rest),
            None => self.registry.split(':').next().unwrap_or(&self.registry),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_sha256)
}

/// 64 lower-case hexadecimal digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("nginx", Some("docker.io/library/nginx:latest"), None),
            ("nginx:1.16", Some("docker.io/library/nginx:1.16"), None),
            ("user/app", Some("docker.io/user/app:latest"), None),
            (
                "registry.k8s.io/e2e-test-images/agnhost:2.53",
                Some("registry.k8s.io/e2e-test-images/agnhost:2.53"),
                None,
            ),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest"), None),
            ("localhost/a", Some("localhost/a:latest"), None),
            ("docker.io/nginx", Some("docker.io/library/nginx:latest"), None),
            (
                &format!("nginx@{digest}"),
                None,
                Some(format!("docker.io/library/nginx@{digest}")),
            ),
            (
                &format!("nginx:1@{digest}"),
                Some("docker.io/library/nginx:1"),
                Some(format!("docker.io/library/nginx@{digest}")),
            ),
        ];
        for (text, tagged, digested) in cases {
            let name = Name::parse(text).unwrap();
            assert_eq!((name.tagged().as_deref(), name.digested()), (tagged, digested), "{text}");
        }
        for text in ["", "Nginx", "a//b", "nginx:", "nginx@sha256:1", "FOO BAR", "a/../b", "x:y:z"] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
        assert!(Name::parse("127.0.0.1:5000/a").unwrap().is_loopback());
        assert!(!Name::parse("quay.io/a").unwrap().is_loopback());
    }
}
