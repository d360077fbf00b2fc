//! JSON for people, made of compact JSON: broken into lines and indented.
//!
//! Invariant: what goes in is canonical bytes of an object, so nothing is checked, and no tree is made of them.

/// Spaces of one level.
const STEP: usize = 2;

/// The same JSON with line breaks and indentation, a line break at its end.
pub(super) fn indented(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut level = 0_usize;
    let mut rest = compact;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b'"' => {
                let length = text_length(rest);
                out.push(b'"');
                out.extend_from_slice(&rest[..length]);
                rest = &rest[length..];
            }
            b'{' | b'[' => {
                out.push(byte);
                match rest.split_first() {
                    // What is empty stays on its line.
                    Some((&end @ (b'}' | b']'), behind)) => {
                        out.push(end);
                        rest = behind;
                    }
                    _ => {
                        level += 1;
                        line(&mut out, level);
                    }
                }
            }
            b'}' | b']' => {
                level = level.saturating_sub(1);
                line(&mut out, level);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, level);
            }
            b':' => out.extend_from_slice(b": "),
            b'\n' => {}
            other => out.push(other),
        }
    }
    out.push(b'\n');
    out
}

fn line(out: &mut Vec<u8>, level: usize) {
    out.push(b'\n');
    out.resize(out.len() + level * STEP, b' ');
}

/// Bytes of a text whose first quotation mark is before `rest`, up to and with its last.
fn text_length(rest: &[u8]) -> usize {
    let mut escaped = false;
    let end = rest.iter().position(|byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => *byte == b'"',
    });
    end.map_or(rest.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_what_serde_json_writes() {
        for value in [
            json!({"a": {"b": [1, -2.5e3, {"c": null}], "d": [], "e": {}}, "f": "x,{}[]:\\\"\n\u{1}é\\"}),
            json!([[[]], [{}], "", true]),
            json!({}),
            json!("\\"),
        ] {
            let mut wanted = serde_json::to_vec_pretty(&value).unwrap();
            wanted.push(b'\n');
            let found = indented(&serde_json::to_vec(&value).unwrap());
            assert_eq!(String::from_utf8(found).unwrap(), String::from_utf8(wanted).unwrap());
        }
    }
}
