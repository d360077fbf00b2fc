//! Finding members of an object in its bytes, without parsing it.

use std::borrow::Cow;
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

/// A member of a compact JSON object: where its name and its value stand.
struct Member {
    name: Range<usize>,
    value: Range<usize>,
}

/// The members of a compact JSON object in order, up to where it stops being one.
fn members(bytes: &[u8]) -> impl Iterator<Item = Member> + '_ {
    let mut at = 1;
    std::iter::from_fn(move || {
        let name = skip_string(bytes.get(at..)?)?;
        let from = at + name + 1;
        let to = from + skip_value(bytes.get(from..)?)?;
        let member = Member {
            name: at + 1..at + name - 1,
            value: from..to,
        };
        at = to + 1;
        Some(member)
    })
}

/// The value of the member that a path of names leads to, as it stands. Names with escapes are not found.
pub(crate) fn value_at<'a>(bytes: &'a [u8], path: &[&str]) -> Option<&'a [u8]> {
    bytes.get(range_at(bytes, path)?)
}

/// Where that value stands.
pub(crate) fn range_at(bytes: &[u8], path: &[&str]) -> Option<Range<usize>> {
    let from = start_at(bytes, path)?;
    Some(from..from + skip_value(&bytes[from..])?)
}

/// The value that a path leads to whose first member is none of those before that place.
pub(crate) fn value_behind<'a>(bytes: &'a [u8], place: usize, path: &[&str]) -> Option<&'a [u8]> {
    let (first, inside) = path.split_first()?;
    let from = member_from(bytes, place, |name| name == first.as_bytes())?.1;
    value_at(bytes.get(from..)?, inside)
}

/// Where the first member begins whose name is beyond `metadata`, in canonical bytes.
pub(crate) fn behind_metadata(bytes: &[u8]) -> Option<usize> {
    member_from(bytes, 1, |name| name > b"metadata".as_slice()).map(|(at, _)| at)
}

/// Where that value begins.
fn start_at(bytes: &[u8], path: &[&str]) -> Option<usize> {
    path.iter().try_fold(0, |start, step| {
        let inner = bytes.get(start..)?;
        if inner.first() != Some(&b'{') {
            return None;
        }
        let (_, value) = member_from(inner, 1, |name| name == step.as_bytes())?;
        Some(start + value)
    })
}

/// Where the first member of a compact JSON object begins whose name is wanted, and where its value does; it is sought from the member on
/// that begins at that place.
fn member_from(object: &[u8], place: usize, wanted: impl Fn(&[u8]) -> bool) -> Option<(usize, usize)> {
    let mut at = place;
    loop {
        let name = skip_string(object.get(at..)?)?;
        let value = at + name + 1;
        if wanted(&object[at + 1..at + name - 1]) {
            return Some((at, value));
        }
        at = value + skip_value(object.get(value..)?)?;
        if object.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
}

/// Where the list stands that a path leads to, and the list with only those members of its elements that are neither lists nor
/// objects. None for an empty list and for what is no list of objects.
pub(crate) fn scalars_at(bytes: &[u8], path: &[&str]) -> Option<(Range<usize>, Vec<u8>)> {
    let from = start_at(bytes, path)?;
    let list = &bytes[from..];
    if list.first() != Some(&b'[') {
        return None;
    }
    let mut out = vec![b'['];
    let mut at = 1;
    loop {
        let element = list.get(at..)?;
        if element.first() != Some(&b'{') {
            return None;
        }
        out.push(b'{');
        let mut end = 1;
        for member in members(element) {
            end = member.value.end;
            if matches!(element[member.value.start], b'[' | b'{') {
                continue;
            }
            if out.last() != Some(&b'{') {
                out.push(b',');
            }
            out.extend_from_slice(&element[member.name.start - 1..end]);
        }
        out.push(b'}');
        // Behind the brace that closes the element.
        at += end + 1;
        match list.get(at)? {
            b',' => out.push(b','),
            b']' => {
                out.push(b']');
                return Some((from..from + at + 1, out));
            }
            _ => return None,
        }
        at += 1;
    }
}

/// The text that a JSON string holds.
pub(crate) fn text(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let inner = bytes.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_some() {
        return serde_json::from_slice(bytes).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

/// The bytes of an object without its `metadata.managedFields`.
pub(crate) fn without_managed_fields(bytes: &[u8]) -> Cow<'_, [u8]> {
    const METADATA: &[u8] = b"metadata";
    const MANAGED: &[u8] = b"managedFields";
    let cut = || {
        let metadata = members(bytes).find(|member| &bytes[member.name.clone()] == METADATA)?.value;
        let inner = &bytes[metadata.clone()];
        let managed = members(inner).find(|member| &inner[member.name.clone()] == MANAGED)?;
        let (mut from, mut to) = (metadata.start + managed.name.start - 1, metadata.start + managed.value.end);
        // One comma goes with it: the one behind, or, for the last member, the one before.
        if bytes.get(to) == Some(&b',') {
            to += 1;
        } else if bytes[from - 1] == b',' {
            from -= 1;
        }
        Some([&bytes[..from], &bytes[to..]].concat())
    };
    cut().map_or(Cow::Borrowed(bytes), Cow::Owned)
}

/// So far the end of a string is sought byte by byte.
const NEAR: usize = 24;

/// Length of the JSON string that `bytes` begins with.
fn skip_string(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        // Most are short, and then a search is not worth its beginning.
        let near = bytes.get(at..bytes.len().min(at + NEAR))?;
        at += match near.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
            Some(found) => found,
            None => near.len() + memchr::memchr2(b'"', b'\\', &bytes[at + near.len()..])?,
        };
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
    fn members_are_found_where_they_stand() {
        let object = Object::parse(Bytes::from_static(
            br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"a":[{"nodeName":"no"}],"b":"{\"nodeName\":1","nodeName":"n\"1","x":{}},"status":{"n":7,"phase":"Failed"}}"#,
        ))
        .unwrap();
        assert_eq!(object.text_at(&["spec", "nodeName"]).unwrap(), "n\"1");
        assert_eq!(object.text_at(&["status", "phase"]).unwrap(), "Failed");
        assert_eq!(object.raw_at(&["status", "n"]).unwrap(), b"7");
        for absent in [
            &["status", "n", "x"][..],
            &["status", "n"],
            &["nodeName"],
            &["spec", "a", "nodeName"],
            &["spec", "x", "y"],
        ] {
            assert_eq!(object.text_at(absent), None, "{absent:?}");
        }
        assert_eq!(object.raw_at(&["status", "n"]).unwrap(), b"7", "asked again");
        for (text, spec) in [
            (r#"{"spec":{"x":{}},"metadata":{"spec":7},"a":1}"#, Some(r#"{"x":{}}"#)),
            (r#"{"status":1,"metadata":{},"spec":{"x":[{}]},"z":2}"#, Some(r#"{"x":[{}]}"#)),
            (r#"{"a":{"spec":1},"metadata":{"spec":2}}"#, None),
            (r#"{"status":{"spec":1}}"#, None),
            (r"{}", None),
        ] {
            let object = Object::parse(text.into()).unwrap();
            for _ in 0..2 {
                assert_eq!(object.raw_at(&["spec"]), spec.map(str::as_bytes), "{text}");
                let inside = spec.map(|spec| &spec.as_bytes()[5..spec.len() - 1]);
                assert_eq!(object.raw_at(&["spec", "x"]), inside, "{text}");
            }
        }
        assert!(object.mentions(r#""phase":"Failed""#) && !object.mentions("Succeeded"));
    }

    #[test]
    fn managed_fields_are_left_out_and_nothing_else() {
        let cut = |text: &str| String::from_utf8(super::without_managed_fields(text.as_bytes()).into_owned()).unwrap();
        for (text, without) in [
            (
                r#"{"metadata":{"managedFields":[{"a":"]"}],"name":"a"},"spec":{}}"#,
                r#"{"metadata":{"name":"a"},"spec":{}}"#,
            ),
            (
                r#"{"metadata":{"labels":{},"managedFields":[]}}"#,
                r#"{"metadata":{"labels":{}}}"#,
            ),
            (r#"{"metadata":{"managedFields":[]}}"#, r#"{"metadata":{}}"#),
            (
                r#"{"data":{"metadata":{"managedFields":[1]}},"metadata":{"labels":{"managedFields":"x"}}}"#,
                r#"{"data":{"metadata":{"managedFields":[1]}},"metadata":{"labels":{"managedFields":"x"}}}"#,
            ),
            (r#"{"kind":"K"}"#, r#"{"kind":"K"}"#),
            (r#"[]"#, r#"[]"#),
        ] {
            assert_eq!(cut(text), without);
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
