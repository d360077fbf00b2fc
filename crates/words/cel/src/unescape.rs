//! The text that a literal of text or bytes stands for.

use crate::problem::Problem;

/// The bytes of a literal with its quotes, which the grammar has found to be one.
pub(crate) fn unescape(literal: &str, bytes: bool) -> Result<Vec<u8>, Problem> {
    let literal = literal.replace("\r\n", "\n").replace('\r', "\n");
    let (raw, quoted) = match literal.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, literal.as_str()),
    };
    let quotes = if quoted.len() >= 6 && (quoted.starts_with("'''") || quoted.starts_with("\"\"\"")) {
        3
    } else {
        1
    };
    let text = quoted
        .get(quotes..quoted.len().saturating_sub(quotes))
        .ok_or(Problem::Unescape)?;
    if raw {
        return Ok(text.as_bytes().to_vec());
    }
    let mut found = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            push(&mut found, letter);
            continue;
        }
        let code = letters.next().ok_or(Problem::Unescape)?;
        let (digits, base, value) = match code {
            'a' => (0, 0, 7),
            'b' => (0, 0, 8),
            'f' => (0, 0, 12),
            'n' => (0, 0, 10),
            'r' => (0, 0, 13),
            't' => (0, 0, 9),
            'v' => (0, 0, 11),
            '\\' | '\'' | '"' | '`' | '?' => (0, 0, code as u32),
            'x' | 'X' => (2, 16, 0),
            'u' | 'U' if bytes => return Err(Problem::Unescape),
            'u' => (4, 16, 0),
            'U' => (8, 16, 0),
            '0'..='3' => (2, 8, code as u32 - '0' as u32),
            _ => return Err(Problem::Unescape),
        };
        let mut number = u64::from(value);
        for _ in 0..digits {
            let digit = letters.next().and_then(|letter| letter.to_digit(base));
            number = number * u64::from(base) + u64::from(digit.ok_or(Problem::Unescape)?);
        }
        if bytes {
            found.push(u8::try_from(number).map_err(|_| Problem::Unescape)?);
        } else {
            let letter = u32::try_from(number).ok().and_then(char::from_u32);
            push(&mut found, letter.ok_or(Problem::CodePoint)?);
        }
    }
    Ok(found)
}

fn push(to: &mut Vec<u8>, letter: char) {
    to.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_stand_for_letters_or_bytes() {
        for (literal, bytes, wanted) in [
            ("'a\\n\\x41\\101'", false, Ok(b"a\nAA".to_vec())),
            ("r'a\\n'", false, Ok(b"a\\n".to_vec())),
            ("'''a\r\n'b'''", false, Ok(b"a\n'b".to_vec())),
            ("'\\xe9'", false, Ok("é".as_bytes().to_vec())),
            ("'\\xe9é'", true, Ok(vec![0xe9, 0xc3, 0xa9])),
            ("'\\ud800'", false, Err(Problem::CodePoint)),
            ("'\\u0041'", true, Err(Problem::Unescape)),
            ("''", false, Ok(Vec::new())),
        ] {
            assert_eq!(unescape(literal, bytes), wanted, "{literal}");
        }
    }
}
