//! Addresses of mail, as Go's `net/mail.ParseAddress` reads them.

/// Whether a text is one address, with a name or without.
pub(crate) fn is_address(text: &str) -> bool {
    let mut reader = Reader { rest: text };
    reader.address(true) == Some(1) && reader.skip_comments() && reader.rest.is_empty()
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn take(&mut self, letter: char) -> bool {
        let found = self.rest.strip_prefix(letter);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// How many addresses there are; none if it is no address.
    fn address(&mut self, groups: bool) -> Option<usize> {
        self.skip_space();
        let begin = *self;
        if self.spec() {
            self.skip_space();
            if self.rest.starts_with('(') && !self.comment() {
                return None;
            }
            return Some(1);
        }
        *self = begin;
        if !self.rest.starts_with('<') && !self.phrase() {
            return None;
        }
        self.skip_space();
        if groups && self.take(':') {
            return self.group();
        }
        (self.take('<') && self.spec() && self.take('>')).then_some(1)
    }

    fn group(&mut self) -> Option<usize> {
        self.skip_space();
        if self.take(';') {
            return self.skip_comments().then_some(0);
        }
        let mut count = 0;
        loop {
            self.skip_space();
            count += self.address(false)?;
            if !self.skip_comments() {
                return None;
            }
            if self.take(';') {
                return self.skip_comments().then_some(count);
            }
            if !self.take(',') {
                return None;
            }
        }
    }

    /// `local@domain`.
    fn spec(&mut self) -> bool {
        self.skip_space();
        let local = if self.rest.starts_with('"') {
            self.quoted().is_some_and(|length| length > 0)
        } else {
            self.atom(false)
        };
        if !local || !self.take('@') {
            return false;
        }
        self.skip_space();
        if self.rest.starts_with('[') {
            self.literal()
        } else {
            self.atom(false)
        }
    }

    fn atom(&mut self, permissive: bool) -> bool {
        let end = self.rest.find(|letter: char| !is_atom(letter)).unwrap_or(self.rest.len());
        let (atom, rest) = self.rest.split_at(end);
        let dots = atom.starts_with('.') || atom.ends_with('.') || atom.contains("..");
        if atom.is_empty() || (dots && !permissive) {
            return false;
        }
        self.rest = rest;
        true
    }

    /// A text in quotes; how many letters are in it.
    fn quoted(&mut self) -> Option<usize> {
        let mut letters = self.rest.char_indices().skip(1);
        let mut length = 0;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(length);
                }
                '\\' => {
                    letters
                        .next()
                        .filter(|(_, letter)| is_visible(*letter) || matches!(letter, ' ' | '\t'))?;
                }
                letter if is_visible(letter) || matches!(letter, ' ' | '\t') => {}
                _ => return None,
            }
            length += 1;
        }
        None
    }

    fn literal(&mut self) -> bool {
        let Some((inner, rest)) = self.rest[1..].split_once(']') else {
            return false;
        };
        self.rest = rest;
        // Only addresses of the Internet are taken.
        inner.parse::<std::net::IpAddr>().is_ok()
    }

    fn phrase(&mut self) -> bool {
        let mut found = false;
        loop {
            self.skip_space();
            let word = if self.rest.starts_with('"') {
                self.quoted().is_some()
            } else {
                self.atom(true)
            };
            if !word {
                return found;
            }
            found = true;
        }
    }

    fn comment(&mut self) -> bool {
        let mut depth = 0_u32;
        let mut letters = self.rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => drop(letters.next()),
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.rest = &self.rest[at + 1..];
                return true;
            }
        }
        false
    }

    fn skip_comments(&mut self) -> bool {
        self.skip_space();
        while self.rest.starts_with('(') {
            if !self.comment() {
                return false;
            }
            self.skip_space();
        }
        true
    }
}

fn is_visible(letter: char) -> bool {
    letter.is_ascii_graphic() || !letter.is_ascii()
}

fn is_atom(letter: char) -> bool {
    is_visible(letter) && !"()<>[]:;@\\,\"".contains(letter)
}
