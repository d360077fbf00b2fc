//! Whether a text is a regular expression as Go reads them (regexp/syntax), in Go's words where it is not.
//!
//! Invariant: one pass over the text, with a stack for its groups; nothing is compiled.

/// Deepest nesting of groups.
const DEPTH_MAX: usize = 1_000;
/// Most repetitions that a count may ask for.
const COUNT_MAX: u32 = 1_000;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("missing argument to repetition operator: `{0}`")]
    NothingToRepeat(String),
    #[error("invalid nested repetition operator: `{0}`")]
    RepeatedTwice(String),
    #[error("invalid repeat count: `{0}`")]
    Count(String),
    #[error("missing closing ): `{0}`")]
    Unclosed(String),
    #[error("unexpected ): `{0}`")]
    Unopened(String),
    #[error("missing closing ]: `{0}`")]
    UnclosedClass(String),
    #[error("invalid character class range: `{0}`")]
    Range(String),
    #[error("invalid escape sequence: `{0}`")]
    Escape(String),
    #[error("trailing backslash at end of expression: `{0}`")]
    Trailing(String),
    #[error("invalid or unsupported Perl syntax: `{0}`")]
    Perl(String),
    #[error("invalid named capture: `{0}`")]
    Name(String),
    #[error("expression nests too deeply: `{0}`")]
    Deep(String),
}

/// What is wrong with a text, the first of it.
pub(super) fn problem(text: &str) -> Option<Problem> {
    let mut parser = Parser { text, at: 0, groups: 0 };
    parser.run().err()
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    groups: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn whole(&self) -> String {
        self.text.to_owned()
    }

    fn run(&mut self) -> Result<(), Problem> {
        // Where the last repetition operator began, if it is the last thing read; whether there is something to repeat.
        let mut repeated: Option<usize> = None;
        let mut operand = false;
        while let Some(letter) = self.rest().chars().next() {
            let start = self.at;
            let mut next_repeated = None;
            match letter {
                '(' => {
                    if self.rest().starts_with("(?") {
                        let before = self.groups;
                        self.perl()?;
                        operand &= self.groups == before;
                    } else {
                        self.open()?;
                        self.at += 1;
                        operand = false;
                    }
                }
                '|' => {
                    self.at += 1;
                    operand = false;
                }
                ')' => {
                    self.at += 1;
                    self.groups = self.groups.checked_sub(1).ok_or_else(|| Problem::Unopened(self.whole()))?;
                    operand = true;
                }
                '[' => {
                    self.class()?;
                    operand = true;
                }
                '*' | '+' | '?' => {
                    self.at += 1;
                    self.repeat(start, operand, repeated)?;
                    next_repeated = Some(start);
                }
                '{' => match self.count()? {
                    true => {
                        self.repeat(start, operand, repeated)?;
                        next_repeated = Some(start);
                    }
                    false => {
                        self.at += 1;
                        operand = true;
                    }
                },
                '\\' => {
                    self.escape_outside()?;
                    operand = true;
                }
                _ => {
                    self.at += letter.len_utf8();
                    operand = true;
                }
            }
            repeated = next_repeated;
        }
        if self.groups > 0 {
            return Err(Problem::Unclosed(self.whole()));
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Problem> {
        self.groups += 1;
        if self.groups > DEPTH_MAX {
            return Err(Problem::Deep(self.whole()));
        }
        Ok(())
    }

    /// Behind an operator of repetition: a question mark belongs to it.
    fn repeat(&mut self, start: usize, operand: bool, before: Option<usize>) -> Result<(), Problem> {
        if self.rest().starts_with('?') {
            self.at += 1;
        }
        if let Some(before) = before {
            return Err(Problem::RepeatedTwice(self.text[before..self.at].to_owned()));
        }
        if !operand {
            return Err(Problem::NothingToRepeat(self.text[start..self.at].to_owned()));
        }
        Ok(())
    }

    /// A count in braces; false where the braces are plain text.
    fn count(&mut self) -> Result<bool, Problem> {
        let rest = self.rest();
        let Some(end) = rest.find('}') else { return Ok(false) };
        let inside = &rest[1..end];
        let (low, high) = match inside.split_once(',') {
            None => (inside, Some(inside)),
            Some((low, "")) => (low, None),
            Some((low, high)) => (low, Some(high)),
        };
        let number = |text: &str| {
            let plain =
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
            plain.then(|| text.parse::<u32>().unwrap_or(u32::MAX))
        };
        let Some(low) = number(low) else { return Ok(false) };
        let high = match high.map(number) {
            None => None,
            Some(None) => return Ok(false),
            Some(Some(high)) => Some(high),
        };
        if low > COUNT_MAX || high.is_some_and(|high| high > COUNT_MAX || high < low) {
            return Err(Problem::Count(rest[..=end].to_owned()));
        }
        self.at += end + 1;
        Ok(true)
    }

    /// `(?`: a named group, flags, or a group with flags.
    fn perl(&mut self) -> Result<(), Problem> {
        let rest = self.rest();
        for prefix in ["(?P<", "(?<"] {
            let Some(name) = rest.strip_prefix(prefix) else { continue };
            let Some(end) = name.find('>') else {
                return Err(Problem::Name(rest.to_owned()));
            };
            let (name, whole) = (&name[..end], rest[..prefix.len() + end + 1].to_owned());
            let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !fits {
                return Err(Problem::Name(whole));
            }
            self.open()?;
            self.at += prefix.len() + end + 1;
            return Ok(());
        }
        let (mut minus, mut flags) = (false, false);
        for (index, letter) in rest.char_indices().skip(2) {
            match letter {
                'i' | 'm' | 's' | 'U' => flags = true,
                '-' if !minus => {
                    minus = true;
                    flags = false;
                }
                ':' | ')' if !minus || flags => {
                    if letter == ':' {
                        self.open()?;
                    }
                    self.at += index + 1;
                    return Ok(());
                }
                _ => return Err(Problem::Perl(rest[..index + letter.len_utf8()].to_owned())),
            }
        }
        Err(Problem::Unclosed(self.whole()))
    }

    fn escape_outside(&mut self) -> Result<(), Problem> {
        let rest = self.rest();
        match rest.as_bytes().get(1) {
            Some(b'A' | b'b' | b'B' | b'z' | b'C' | b'd' | b'D' | b's' | b'S' | b'w' | b'W') => {
                self.at += 2;
                Ok(())
            }
            Some(b'Q') => {
                self.at += rest.find("\\E").map_or(rest.len(), |end| end + 2);
                Ok(())
            }
            Some(b'p' | b'P') => self.unicode(),
            _ => self.escape().map(drop),
        }
    }

    /// `\pN` or `\p{Name}`.
    fn unicode(&mut self) -> Result<(), Problem> {
        let rest = self.rest();
        let Some(letter) = rest.chars().nth(2) else {
            return Err(Problem::Range(rest.to_owned()));
        };
        let end = if letter == '{' {
            rest.find('}').ok_or_else(|| Problem::Range(rest.to_owned()))? + 1
        } else {
            2 + letter.len_utf8()
        };
        let name = rest[2..end].trim_matches(['{', '}', '^']);
        // The names of categories and scripts are the same in both languages.
        if regex::Regex::new(&format!("\\p{{{name}}}")).is_err() {
            return Err(Problem::Range(rest[..end].to_owned()));
        }
        self.at += end;
        Ok(())
    }

    /// A letter behind a backslash.
    fn escape(&mut self) -> Result<char, Problem> {
        let rest = self.rest();
        let Some(letter) = rest.chars().nth(1) else {
            return Err(Problem::Trailing(String::new()));
        };
        let taken = |count: usize| rest.chars().take(count).map(char::len_utf8).sum::<usize>();
        let (value, bytes) = match letter {
            '1'..='7' if !rest[2..].starts_with(|next: char| ('0'..='7').contains(&next)) => {
                return Err(Problem::Escape(rest[..2].to_owned()));
            }
            '0'..='7' => {
                let digits = rest[1..]
                    .bytes()
                    .take(3)
                    .take_while(|byte| (b'0'..=b'7').contains(byte))
                    .count();
                let value = u32::from_str_radix(&rest[1..=digits], 8).unwrap_or(0);
                (char::from_u32(value).unwrap_or('\0'), 1 + digits)
            }
            'x' => {
                let digits = match rest.as_bytes().get(2) {
                    Some(b'{') => rest.find('}').map(|end| (&rest[3..end], end + 1)),
                    _ => rest.get(2..4).map(|digits| (digits, 4)),
                };
                let value = digits.and_then(|(digits, bytes)| Some((u32::from_str_radix(digits, 16).ok()?, bytes)));
                match value.and_then(|(value, bytes)| Some((char::from_u32(value)?, bytes))) {
                    Some(found) => found,
                    None => return Err(Problem::Escape(rest[..taken(3)].to_owned())),
                }
            }
            'a' | 'f' | 'n' | 'r' | 't' | 'v' => ('\0', 2),
            letter if letter.is_ascii() && !letter.is_ascii_alphanumeric() => (letter, 2),
            _ => return Err(Problem::Escape(rest[..taken(2)].to_owned())),
        };
        self.at += bytes;
        Ok(value)
    }

    fn class(&mut self) -> Result<(), Problem> {
        let open = self.rest();
        self.at += 1;
        if self.rest().starts_with('^') {
            self.at += 1;
        }
        let mut first = true;
        loop {
            let rest = self.rest();
            let Some(letter) = rest.chars().next() else {
                return Err(Problem::UnclosedClass(open.to_owned()));
            };
            if letter == ']' && !first {
                self.at += 1;
                return Ok(());
            }
            first = false;
            if rest.starts_with("[:")
                && let Some(end) = rest.find(":]")
            {
                let name = rest[2..end].trim_start_matches('^');
                const NAMES: &[&str] = &[
                    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
                    "word", "xdigit",
                ];
                if !NAMES.contains(&name) {
                    return Err(Problem::Range(rest[..end + 2].to_owned()));
                }
                self.at += end + 2;
                continue;
            }
            match rest.as_bytes().get(1) {
                Some(b'p' | b'P') if letter == '\\' => {
                    self.unicode()?;
                    continue;
                }
                Some(b'd' | b'D' | b's' | b'S' | b'w' | b'W') if letter == '\\' => {
                    self.at += 2;
                    continue;
                }
                _ => {}
            }
            let start = self.at;
            let low = self.class_letter(open)?;
            if self.rest().starts_with('-') && self.rest().len() > 1 && !self.rest().starts_with("-]") {
                self.at += 1;
                let high = self.class_letter(open)?;
                if high < low {
                    return Err(Problem::Range(self.text[start..self.at].to_owned()));
                }
            }
        }
    }

    fn class_letter(&mut self, open: &str) -> Result<char, Problem> {
        match self.rest().chars().next() {
            None => Err(Problem::UnclosedClass(open.to_owned())),
            Some('\\') => self.escape(),
            Some(letter) => {
                self.at += letter.len_utf8();
                Ok(letter)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes_is_taken() {
        for text in [
            "",
            "^a+b*?c{2,3}$",
            "{",
            "a{,2}",
            "a{x}",
            "[]a]",
            "[^]a]",
            "[a-]",
            "[[:alnum:]-]",
            "\\-\\.",
            "(?i)a",
            "(?P<n>a)|(?:b)",
            "\\pL\\p{Greek}",
            "\\Qa(b\\E+",
            "^(?:\\d{4}-\\d{2})?$",
        ] {
            assert_eq!(problem(text), None, "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_told_in_its_words() {
        for (text, words) in [
            ("*", "missing argument to repetition operator: `*`"),
            ("a|+", "missing argument to repetition operator: `+`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("(a", "missing closing ): `(a`"),
            ("a)b", "unexpected ): `a)b`"),
            ("x[a", "missing closing ]: `[a`"),
            ("[b-a]", "invalid character class range: `b-a`"),
            ("\\y", "invalid escape sequence: `\\y`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ] {
            assert_eq!(problem(text).map(|why| why.to_string()).as_deref(), Some(words), "{text}");
        }
    }
}
