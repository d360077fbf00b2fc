//! Whether Go's package regexp takes a regular expression, and what it says if not.
//!
//! Crates for regular expressions differ from it: a `{` that begins no repetition is a letter for Go, and look-around is in
//! neither, but refused in other words. Limits of size and height, which only texts of hostile length reach, are not looked at.

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::sync::LazyLock;

/// What is wrong with an expression: the reason, and the part that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexFault {
    reason: &'static str,
    part: Box<str>,
}

impl Display for RegexFault {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}: `{}`", self.reason, self.part)
    }
}

const CHAR_RANGE: &str = "invalid character class range";
const ESCAPE: &str = "invalid escape sequence";
const NAMED_CAPTURE: &str = "invalid named capture";
const PERL: &str = "invalid or unsupported Perl syntax";
const REPEAT_OP: &str = "invalid nested repetition operator";
const REPEAT_SIZE: &str = "invalid repeat count";
const MISSING_BRACKET: &str = "missing closing ]";
const MISSING_PAREN: &str = "missing closing )";
const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const TRAILING_BACKSLASH: &str = "trailing backslash at end of expression";
const UNEXPECTED_PAREN: &str = "unexpected )";

/// Most times that something is repeated, all repetitions around it together.
const REPEAT_MAX: u64 = 1000;

const CLASSES: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit",
];

/// Categories and scripts of Unicode, by the names that Go knows them by.
const CLASSES_OF_UNICODE: &str = "Adlam Ahom Anatolianhieroglyphs Any Arabic Armenian Ascii Assigned Avestan Balinese Bamum Bassavah Batak Bengali \
     Beriaerfe Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid C Canadianaboriginal Carian Casedletter Caucasianalbanian Cc \
     Cf Chakma Cham Cherokee Chorasmian Closepunctuation Cn Cntrl Co Combiningmark Common Connectorpunctuation Control Coptic \
     Cs Cuneiform Currencysymbol Cypriot Cyprominoan Cyrillic Dashpunctuation Decimalnumber Deseret Devanagari Digit \
     Divesakuru Dogra Duployan Egyptianhieroglyphs Elbasan Elymaic Enclosingmark Ethiopic Finalpunctuation Format Garay \
     Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjalagondi Gurmukhi Gurungkhema Han Hangul Hanifirohingya Hanunoo \
     Hatran Hebrew Hiragana Imperialaramaic Inherited Initialpunctuation Inscriptionalpahlavi Inscriptionalparthian Javanese \
     Kaithi Kannada Katakana Kawi Kayahli Kharoshthi Khitansmallscript Khmer Khojki Khudawadi Kiratrai L Lao Latin Lc Lepcha \
     Letter Letternumber Limbu Lineara Linearb Lineseparator Lisu Ll Lm Lo Lowercaseletter Lt Lu Lycian Lydian M Mahajani \
     Makasar Malayalam Mandaic Manichaean Marchen Mark Masaramgondi Mathsymbol Mc Me Medefaidrin Meeteimayek Mendekikakui \
     Meroiticcursive Meroitichieroglyphs Miao Mn Modi Modifierletter Modifiersymbol Mongolian Mro Multani Myanmar N Nabataean \
     Nagmundari Nandinagari Nd Newa Newtailue Nko Nl No Nonspacingmark Number Nushu Nyiakengpuachuehmong Ogham Olchiki \
     Oldhungarian Olditalic Oldnortharabian Oldpermic Oldpersian Oldsogdian Oldsoutharabian Oldturkic Olduyghur Olonal \
     Openpunctuation Oriya Osage Osmanya Other Otherletter Othernumber Otherpunctuation Othersymbol P Pahawhhmong Palmyrene \
     Paragraphseparator Paucinhau Pc Pd Pe Pf Phagspa Phoenician Pi Po Privateuse Ps Psalterpahlavi Punct Punctuation Rejang \
     Runic S Samaritan Saurashtra Sc Separator Sharada Shavian Siddham Sidetic Signwriting Sinhala Sk Sm So Sogdian \
     Sorasompeng Soyombo Spaceseparator Spacingmark Sundanese Sunuwar Surrogate Sylotinagri Symbol Syriac Tagalog Tagbanwa \
     Taile Taitham Taiviet Taiyo Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Titlecaseletter Todhri \
     Tolongsiki Toto Tulutigalari Ugaritic Unassigned Uppercaseletter Vai Vithkuqi Wancho Warangciti Yezidi Yi Z \
     Zanabazarsquare Zl Zp Zs";

type Rest<'a> = Result<&'a str, RegexFault>;

fn fault<T>(reason: &'static str, part: &str) -> Result<T, RegexFault> {
    let part = part.into();
    Err(RegexFault { reason, part })
}

/// What is wrong with `pattern`, if anything is. It takes time in proportion to the pattern's length.
#[must_use]
pub fn regex_fault(pattern: &str) -> Option<RegexFault> {
    judge(pattern).err()
}

/// What precedes a repetition: how often its own repetitions repeat.
type Atom = Option<u64>;

fn judge(whole: &str) -> Result<(), RegexFault> {
    // Of each open group, the most repetitions in it so far.
    let mut groups: Vec<u64> = Vec::new();
    let (mut worst, mut last): (u64, Atom) = (0, None);
    let mut text = whole;
    let mut last_repeat: Option<&str> = None;
    // Bytes from where the last name of a class ends: none begins behind it.
    let mut named = None;
    while let Some(letter) = text.chars().next() {
        let before = text;
        let mut repeat = None;
        let mut atom = true;
        match letter {
            '(' if text[1..].starts_with('?') => {
                let (rest, opens) = perl_flags(text)?;
                text = rest;
                atom = false;
                if opens {
                    groups.push(std::mem::take(&mut worst));
                    last = None;
                }
            }
            '(' => {
                groups.push(std::mem::take(&mut worst));
                last = None;
                atom = false;
                text = &text[1..];
            }
            '|' => {
                last = None;
                atom = false;
                text = &text[1..];
            }
            ')' => {
                let Some(outside) = groups.pop() else {
                    return fault(UNEXPECTED_PAREN, whole);
                };
                last = Some(worst);
                worst = worst.max(outside);
                atom = false;
                text = &text[1..];
            }
            '[' => {
                let named = named.get_or_insert_with(|| whole.rfind(":]").map_or(usize::MAX, |at| whole.len() - at));
                text = class(text, *named)?;
            }
            '*' | '+' | '?' => {
                text = repetition(before, &text[1..], last_repeat, last)?;
                repeat = Some(before);
                atom = false;
            }
            '{' => match counted(text) {
                None => text = &text[1..],
                Some((least, most, after)) => {
                    let size = most.unwrap_or(least);
                    if least > REPEAT_MAX || size > REPEAT_MAX || least > size {
                        return fault(REPEAT_SIZE, &before[..before.len() - after.len()]);
                    }
                    text = repetition(before, after, last_repeat, last)?;
                    let inner = last.unwrap_or_default().max(1);
                    let all = inner.saturating_mul(size.max(1));
                    if (least >= 2 || size >= 2) && all > REPEAT_MAX {
                        return fault(REPEAT_SIZE, &before[..before.len() - text.len()]);
                    }
                    last = Some(all);
                    worst = worst.max(all);
                    repeat = Some(before);
                    atom = false;
                }
            },
            '\\' => text = backslash(text)?,
            _ => text = &text[letter.len_utf8()..],
        }
        if atom {
            last = Some(0);
        }
        last_repeat = repeat;
    }
    if groups.is_empty() {
        Ok(())
    } else {
        fault(MISSING_PAREN, whole)
    }
}

/// Judges a repetition that begins at `before` and whose operator ends at `after`; returns what follows.
fn repetition<'a>(before: &'a str, after: &'a str, last_repeat: Option<&str>, last: Atom) -> Rest<'a> {
    let after = after.strip_prefix('?').unwrap_or(after);
    if let Some(last) = last_repeat {
        return fault(REPEAT_OP, &last[..last.len() - after.len()]);
    }
    if last.is_none() {
        return fault(MISSING_ARGUMENT, &before[..before.len() - after.len()]);
    }
    Ok(after)
}

/// The counts of `{2}`, `{2,}` or `{2,3}` and what follows; none if it is something else.
fn counted(text: &str) -> Option<(u64, Option<u64>, &str)> {
    let (least, rest) = count(&text[1..])?;
    let Some(rest) = rest.strip_prefix(',') else {
        return Some((least, Some(least), rest.strip_prefix('}')?));
    };
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((least, None, rest));
    }
    let (most, rest) = count(rest)?;
    Some((least, Some(most), rest.strip_prefix('}')?))
}

fn count(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let digits = &text[..end];
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u64::MAX), &text[end..]))
}

/// Flags or the name of a group that begins with `(?`; what follows, and whether a group opens.
fn perl_flags(text: &str) -> Result<(&str, bool), RegexFault> {
    let name = text
        .strip_prefix("(?P<")
        .filter(|rest| !rest.is_empty())
        .or_else(|| text.strip_prefix("(?<").filter(|rest| !rest.is_empty()));
    if let Some(name) = name {
        let Some(end) = name.find('>') else {
            return fault(NAMED_CAPTURE, text);
        };
        let after = &name[end + 1..];
        let name = &name[..end];
        if name.is_empty() || !name.chars().all(|letter| letter == '_' || letter.is_ascii_alphanumeric()) {
            return fault(NAMED_CAPTURE, &text[..text.len() - after.len()]);
        }
        return Ok((after, true));
    }
    let mut rest = &text[2..];
    let (mut negative, mut seen) = (false, false);
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        match letter {
            'i' | 'm' | 's' | 'U' => seen = true,
            '-' if !negative => (negative, seen) = (true, false),
            ':' | ')' if !negative || seen => return Ok((rest, letter == ':')),
            _ => break,
        }
    }
    fault(PERL, &text[..text.len() - rest.len()])
}

/// What follows something that begins with a backslash outside of a class.
fn backslash(text: &str) -> Rest<'_> {
    match text[1..].chars().next() {
        Some('A' | 'b' | 'B' | 'z') => Ok(&text[2..]),
        Some('C') => fault(ESCAPE, &text[..2]),
        Some('Q') => Ok(text[2..].split_once("\\E").map_or("", |(_, rest)| rest)),
        _ => match shorthand(text)? {
            Some(rest) => Ok(rest),
            None => escape(text).map(|(_, rest)| rest),
        },
    }
}

/// What follows a class without brackets, if one begins here.
fn shorthand(text: &str) -> Result<Option<&str>, RegexFault> {
    let mut letters = text.chars();
    if letters.next() != Some('\\') {
        return Ok(None);
    }
    match letters.next() {
        Some('d' | 'D' | 's' | 'S' | 'w' | 'W') => Ok(Some(&text[2..])),
        Some('p' | 'P') => unicode_class(text).map(Some),
        _ => Ok(None),
    }
}

fn unicode_class(text: &str) -> Rest<'_> {
    let Some(first) = text[2..].chars().next() else {
        return fault(CHAR_RANGE, text);
    };
    let (all, name) = if first == '{' {
        let Some(end) = text.find('}') else {
            return fault(CHAR_RANGE, text);
        };
        (&text[..=end], &text[3..end])
    } else {
        let end = 2 + first.len_utf8();
        (&text[..end], &text[2..end])
    };
    let name = name.strip_prefix('^').unwrap_or(name);
    if is_class_of_unicode(name) {
        return Ok(&text[all.len()..]);
    }
    fault(CHAR_RANGE, all)
}

fn is_class_of_unicode(name: &str) -> bool {
    static KNOWN: LazyLock<HashSet<&str>> = LazyLock::new(|| CLASSES_OF_UNICODE.split_ascii_whitespace().collect());
    // Names are compared without what separates their words, the first letter large.
    KNOWN.contains(name) || {
        let mut canonical = name.replace(['_', '-', ' '], "").to_ascii_lowercase();
        if let Some(first) = canonical.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        KNOWN.contains(canonical.as_str())
    }
}

/// The letter that an escape stands for, and what follows.
fn escape(text: &str) -> Result<(u32, &str), RegexFault> {
    let Some(code) = text[1..].chars().next() else {
        return fault(TRAILING_BACKSLASH, "");
    };
    let mut rest = &text[1 + code.len_utf8()..];
    let octal = |text: &str| text.bytes().next().filter(|digit| (b'0'..=b'7').contains(digit));
    match code {
        '0'..='7' if code == '0' || octal(rest).is_some() => {
            let mut value = code as u32 - '0' as u32;
            for _ in 1..3 {
                let Some(digit) = octal(rest) else {
                    break;
                };
                value = value * 8 + u32::from(digit - b'0');
                rest = &rest[1..];
            }
            return Ok((value, rest));
        }
        'x' => {
            if let Some((value, rest)) = hexadecimal(&mut rest) {
                return Ok((value, rest));
            }
        }
        'a' => return Ok((7, rest)),
        'f' => return Ok((12, rest)),
        'n' => return Ok((10, rest)),
        'r' => return Ok((13, rest)),
        't' => return Ok((9, rest)),
        'v' => return Ok((11, rest)),
        _ if code.is_ascii() && !code.is_ascii_alphanumeric() => return Ok((code as u32, rest)),
        _ => {}
    }
    fault(ESCAPE, &text[..text.len() - rest.len()])
}

/// The value of what follows `\x`; `rest` is left where reading ended, since a fault tells as much.
fn hexadecimal<'a>(rest: &mut &'a str) -> Option<(u32, &'a str)> {
    let mut next = || {
        let letter = rest.chars().next()?;
        *rest = &rest[letter.len_utf8()..];
        Some(letter)
    };
    let first = next()?;
    if first != '{' {
        let second = next()?;
        let value = first.to_digit(16)? * 16 + second.to_digit(16)?;
        return Some((value, *rest));
    }
    let mut value = None;
    loop {
        let letter = next()?;
        if letter == '}' {
            return value.map(|value| (value, *rest));
        }
        let more: u32 = value.unwrap_or_default() * 16 + letter.to_digit(16)?;
        if more > u32::from(char::MAX) {
            return None;
        }
        value = Some(more);
    }
}

/// What follows a class in brackets. A text of no more than `named` bytes holds no end of a name.
fn class(whole: &str, named: usize) -> Rest<'_> {
    let mut text = &whole[1..];
    text = text.strip_prefix('^').unwrap_or(text);
    let mut first = true;
    while first || !text.starts_with(']') {
        first = false;
        if text.len() > named
            && text.starts_with("[:")
            && let Some(end) = text[2..].find(":]")
        {
            let (name, rest) = text.split_at(end + 4);
            let inner = &text[2..2 + end];
            if !CLASSES.contains(&inner.strip_prefix('^').unwrap_or(inner)) {
                return fault(CHAR_RANGE, name);
            }
            text = rest;
            continue;
        }
        if let Some(rest) = shorthand(text)? {
            text = rest;
            continue;
        }
        let range = text;
        let (low, rest) = class_letter(text, whole)?;
        text = rest;
        if text.len() >= 2 && text.starts_with('-') && !text[1..].starts_with(']') {
            let (high, rest) = class_letter(&text[1..], whole)?;
            text = rest;
            if high < low {
                return fault(CHAR_RANGE, &range[..range.len() - text.len()]);
            }
        }
    }
    Ok(&text[1..])
}

fn class_letter<'a>(text: &'a str, whole: &str) -> Result<(u32, &'a str), RegexFault> {
    match text.chars().next() {
        None => fault(MISSING_BRACKET, whole),
        Some('\\') => escape(text),
        Some(letter) => Ok((letter as u32, &text[letter.len_utf8()..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes_is_taken() {
        for pattern in [
            "",
            "^a+b*?c{2,3}$",
            "a{x}",
            "\\-\\.",
            "(?P<n>a)|(?:b)",
            "\\Qa(b\\E+",
            "^(?:\\d{4}-\\d{2})?$",
            "[[:alpha:][:]",
            "a{",
            "a{,2}",
            "{",
            "}",
            "]",
            "a|",
            "[]a]",
            "[^]]",
            "[a-]",
            "[[:alnum:]-]",
            "(?i)a(?-i:b)",
            "(?P<n>a)",
            "(?<n>a)",
            "\\-\\/",
            "\\x{10FFFF}",
            "\\07",
            "\\pL\\p{Greek}",
            "a*?",
            "a{2}",
            "()*",
            "(?s).",
            "\\Qa(\\E",
            "\\z",
            "^*",
        ] {
            assert_eq!(regex_fault(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn what_go_refuses_is_told_in_its_words() {
        for (pattern, wanted) in [
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("[a", "missing closing ]: `[a`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a|+", "missing argument to repetition operator: `+`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("x[a", "missing closing ]: `[a`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("(a{100}){100}", "invalid repeat count: `{100}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?P<a-b>c)", "invalid named capture: `(?P<a-b>`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("\\q", "invalid escape sequence: `\\q`"),
            ("\\1", "invalid escape sequence: `\\1`"),
            ("[b-a]", "invalid character class range: `b-a`"),
            ("[[:a]:]", "invalid character class range: `[:a]:]`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            ("\\p{Foo}", "invalid character class range: `\\p{Foo}`"),
        ] {
            let found = regex_fault(pattern).map(|fault| fault.to_string());
            assert_eq!(found.as_deref(), Some(wanted), "{pattern}");
        }
    }
}
