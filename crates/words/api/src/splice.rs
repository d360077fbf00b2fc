//! Finding the type members of an object in its bytes, without parsing it.

use std::ops::Range;

/// Where `apiVersion` and `kind` stand in canonical bytes (compact, keys sorted), each with the comma behind it. Both
/// come before `metadata`, so nothing behind them is looked at.
pub(crate) fn type_members(bytes: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    const VERSION: &[u8] = b"\"apiVersion\":";
    const KIND: &[u8] = b"\"kind\":";
    let mut version = None;
    let mut at = 1;
    loop {
        let member = bytes.get(at..)?;
        let name = skip_string(member)?;
        let value = skip_value(member.get(name + 1..)?)?;
        let end = at + name + 1 + value;
        if bytes.get(end) != Some(&b',') {
            return None;
        }
        if member.starts_with(KIND) {
            return Some((version?, at..end + 1));
        }
        if member.starts_with(VERSION) {
            version = Some(at..end + 1);
        }
        at = end + 1;
    }
}

/// Length of the JSON string that `bytes` begins with.
fn skip_string(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Length of the compact JSON value that `bytes` begins with.
fn skip_value(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'"' => skip_string(bytes),
        b'{' | b'[' => {
            let (mut depth, mut at) = (0_usize, 0);
            loop {
                match bytes.get(at)? {
                    b'"' => at += skip_string(&bytes[at..])?,
                    b'{' | b'[' => {
                        depth += 1;
                        at += 1;
                    }
                    b'}' | b']' => {
                        depth -= 1;
                        at += 1;
                        if depth == 0 {
                            return Some(at);
                        }
                    }
                    _ => at += 1,
                }
            }
        }
        _ => bytes.iter().position(|byte| matches!(byte, b',' | b'}' | b']')),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::Object;

    fn check(object: &str, expected: &str) {
        let untyped = Object::parse(Bytes::copy_from_slice(object.as_bytes())).unwrap();
        // Twice: found, and remembered.
        for _ in 0..2 {
            assert_eq!(String::from_utf8(untyped.untyped().concat()).unwrap(), expected);
        }
    }

    #[test]
    fn items_lose_their_type_and_nothing_else() {
        check(
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#,
            r#"{"metadata":{"name":"a"}}"#,
        );
        check(
            r#"{"apiVersion":"v1","data":{"a\"":"\\","kind":"x","n":[{"kind":"ConfigMap"}]},"immutable":true,"kind":"ConfigMap","metadata":{}}"#,
            r#"{"data":{"a\"":"\\","kind":"x","n":[{"kind":"ConfigMap"}]},"immutable":true,"metadata":{}}"#,
        );
        check(
            r#"{"addressType":"IPv4","apiVersion":"discovery.k8s.io/v1","endpoints":[],"kind":"EndpointSlice","metadata":{}}"#,
            r#"{"addressType":"IPv4","endpoints":[],"metadata":{}}"#,
        );
        check(r#"{"odd":1}"#, r#"{"odd":1}"#);
    }
}
