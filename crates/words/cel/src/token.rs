//! The words of an expression.

/// A word and the code points that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Kind,
    pub at: u32,
    pub end: u32,
}

/// What a word is. Operators are told by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    End,
    Ident,
    EscapedIdent,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    True,
    False,
    Null,
    /// An operator or a bracket.
    Sign(&'static str),
}

/// Signs, those first that begin with others.
const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%",
];

/// The text is no sequence of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoToken;

/// Splits an expression into its words; an end stands last.
pub(crate) fn tokens(letters: &[char]) -> Result<Vec<Token>, NoToken> {
    let mut scan = Scan { letters, at: 0 };
    let mut found = Vec::new();
    loop {
        scan.skip();
        let at = scan.at;
        let kind = if at == letters.len() { Kind::End } else { scan.word()? };
        found.push(Token {
            kind,
            at: number(at),
            end: number(scan.at),
        });
        if kind == Kind::End {
            return Ok(found);
        }
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

struct Scan<'a> {
    letters: &'a [char],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.letters.get(self.at + ahead).copied()
    }

    fn digit(&self, ahead: usize) -> bool {
        self.peek(ahead).is_some_and(|letter| letter.is_ascii_digit())
    }

    /// Passes what is for people: spaces and comments.
    fn skip(&mut self) {
        while let Some(letter) = self.peek(0) {
            match letter {
                '\t' | ' ' | '\r' | '\n' | '\u{c}' => self.at += 1,
                '/' if self.peek(1) == Some('/') => {
                    while self.peek(0).is_some_and(|letter| letter != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn word(&mut self) -> Result<Kind, NoToken> {
        let first = self.peek(0).ok_or(NoToken)?;
        if self.digit(0) || (first == '.' && self.digit(1)) {
            return Ok(self.figure());
        }
        if let Some(kind) = self.text()? {
            return Ok(kind);
        }
        if first == '`' {
            return self.escaped();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let begin = self.at;
            self.pass(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            let word: String = self.letters[begin..self.at].iter().collect();
            return Ok(match word.as_str() {
                "true" => Kind::True,
                "false" => Kind::False,
                "null" => Kind::Null,
                "in" => Kind::Sign("in"),
                _ => Kind::Ident,
            });
        }
        let sign = SIGNS
            .iter()
            .find(|sign| {
                sign.chars()
                    .enumerate()
                    .all(|(index, letter)| self.peek(index) == Some(letter))
            })
            .ok_or(NoToken)?;
        self.at += sign.len();
        Ok(Kind::Sign(sign))
    }

    fn pass(&mut self, while_so: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&while_so) {
            self.at += 1;
        }
    }

    fn figure(&mut self) -> Kind {
        let hexadecimal = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_hexdigit());
        if self.peek(0) == Some('0') && self.peek(1) == Some('x') && hexadecimal(self.peek(2)) {
            self.at += 2;
            self.pass(|letter| letter.is_ascii_hexdigit());
            return self.whole();
        }
        self.pass(|letter| letter.is_ascii_digit());
        let mut float = false;
        if self.peek(0) == Some('.') && self.digit(1) {
            float = true;
            self.at += 1;
            self.pass(|letter| letter.is_ascii_digit());
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.digit(1 + sign) {
                float = true;
                self.at += 1 + sign;
                self.pass(|letter| letter.is_ascii_digit());
            }
        }
        if float { Kind::Float } else { self.whole() }
    }

    fn whole(&mut self) -> Kind {
        if matches!(self.peek(0), Some('u' | 'U')) {
            self.at += 1;
            return Kind::Uint;
        }
        Kind::Int
    }

    fn escaped(&mut self) -> Result<Kind, NoToken> {
        self.at += 1;
        let begin = self.at;
        self.pass(|letter| letter.is_ascii_alphanumeric() || "_.-/ ".contains(letter));
        if self.at == begin || self.peek(0) != Some('`') {
            return Err(NoToken);
        }
        self.at += 1;
        Ok(Kind::EscapedIdent)
    }

    /// A string or bytes, if one begins here.
    fn text(&mut self) -> Result<Option<Kind>, NoToken> {
        let mut ahead = 0;
        let bytes = matches!(self.peek(ahead), Some('b' | 'B'));
        ahead += usize::from(bytes);
        let raw = matches!(self.peek(ahead), Some('r' | 'R'));
        ahead += usize::from(raw);
        let Some(quote @ ('"' | '\'')) = self.peek(ahead) else {
            return Ok(None);
        };
        self.at += ahead;
        let long = self.peek(1) == Some(quote) && self.peek(2) == Some(quote) && self.closes(quote, 3, true, raw).is_some();
        let length = if long { 3 } else { 1 };
        self.at = self.closes(quote, length, long, raw).ok_or(NoToken)?;
        Ok(Some(if bytes { Kind::Bytes } else { Kind::String }))
    }

    /// Where a text ends whose quotes are `length` long and which begins here.
    fn closes(&self, quote: char, length: usize, long: bool, raw: bool) -> Option<usize> {
        let mut ahead = length;
        loop {
            match self.peek(ahead)? {
                letter if letter == quote && (!long || (1..3).all(|more| self.peek(ahead + more) == Some(quote))) => {
                    return Some(self.at + ahead + length);
                }
                '\\' if !raw => ahead += self.escape(ahead)?,
                '\n' | '\r' if !long => return None,
                _ => ahead += 1,
            }
        }
    }

    /// How long the escape is that begins `ahead`.
    fn escape(&self, ahead: usize) -> Option<usize> {
        let (length, allowed): (usize, fn(char) -> bool) = match self.peek(ahead + 1)? {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => return Some(2),
            '0'..='3' => (2, |letter| ('0'..='7').contains(&letter)),
            'x' | 'X' => (2, |letter| letter.is_ascii_hexdigit()),
            'u' => (4, |letter| letter.is_ascii_hexdigit()),
            'U' => (8, |letter| letter.is_ascii_hexdigit()),
            _ => return None,
        };
        let good = (0..length).all(|index| self.peek(ahead + 2 + index).is_some_and(allowed));
        good.then_some(2 + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Result<Vec<(Kind, u32)>, NoToken> {
        let letters: Vec<char> = text.chars().collect();
        let found = tokens(&letters)?.into_iter();
        Ok(found
            .filter(|token| token.kind != Kind::End)
            .map(|token| (token.kind, token.end - token.at))
            .collect())
    }

    #[test]
    fn words_are_as_long_as_they_can_be() {
        for (text, wanted) in [
            ("1.5e-3", vec![(Kind::Float, 6)]),
            ("1.e", vec![(Kind::Int, 1), (Kind::Sign("."), 1), (Kind::Ident, 1)]),
            ("0x1Fu 12U .5", vec![(Kind::Uint, 5), (Kind::Uint, 3), (Kind::Float, 2)]),
            ("br'\\' // in", vec![(Kind::Bytes, 5)]),
            ("''' ' '''", vec![(Kind::String, 9)]),
            ("'' 'a\\'b'", vec![(Kind::String, 2), (Kind::String, 6)]),
            (
                "in inn `a-b/c`",
                vec![(Kind::Sign("in"), 2), (Kind::Ident, 3), (Kind::EscapedIdent, 7)],
            ),
            ("a<=b", vec![(Kind::Ident, 1), (Kind::Sign("<="), 2), (Kind::Ident, 1)]),
        ] {
            assert_eq!(kinds(text), Ok(wanted), "{text}");
        }
        for text in ["'a", "'a\nb'", "'\\q'", "'\\u12'", "`a", "``", "#", "a & b", "'''a"] {
            assert_eq!(kinds(text), Err(NoToken), "{text}");
        }
    }
}
