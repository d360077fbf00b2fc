//! Query parameters.
//!
//! Invariant: the first value of a repeated parameter counts, as in upstream's conversion of query to options.

/// Decoded query parameters in order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part of a URL behind `?`.
    #[must_use]
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name, true), decode(value, true))
                })
                .collect(),
        )
    }

    /// From pairs that are already decoded.
    #[must_use]
    pub fn of(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The first value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter, unless it is empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean as upstream reads it: everything but `false` and `0` is true, also the empty value.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.boolean(name).unwrap_or(false)
    }

    /// The same, `None` where the parameter is absent.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.get(name)
            .map(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }
}

/// Undoes percent encoding; `+` is a space in queries but not in paths.
#[must_use]
pub fn decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'+' if plus_is_space => out.push(b' '),
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
                if let Some(byte) = digits.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
                    out.push(byte);
                    at += 2;
                } else {
                    out.push(b'%');
                }
            }
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_value_counts_and_encoding_is_undone() {
        let query = Query::parse(Some("a=1&a=2&labelSelector=x%3Dy+z&watch&b=false"));
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("labelSelector"), Some("x=y z"));
        assert!(query.flag("watch") && !query.flag("b") && !query.flag("c"));
    }
}
