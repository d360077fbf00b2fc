//! Field paths that are written out only where somebody reads them: most nodes of an object give no error.
//!
//! Invariant: making a path copies no text, however long the names above it are. A path that many others begin with is
//! kept once. Nothing here knows of values.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

/// A path: the steps above, and the last.
#[derive(Clone, Debug, Default)]
pub(super) struct Path<'a> {
    above: Option<Rc<Path<'a>>>,
    last: Step<'a>,
}

/// A step of a path.
#[derive(Clone, Debug, Default)]
pub(super) enum Step<'a> {
    /// None: the path is the one above.
    #[default]
    Here,
    /// `name`, with a dot before it where something is above.
    Member(&'a str),
    /// `[3]`.
    Index(usize),
    /// `[key]`.
    Key(&'a str),
    /// A text that was made elsewhere.
    Text(Cow<'a, str>),
}

impl<'a> Path<'a> {
    /// This path and a step more.
    pub fn then(&self, last: Step<'a>) -> Self {
        let above = match self.last {
            Step::Here => self.above.clone(),
            _ => Some(Rc::new(self.clone())),
        };
        Self { above, last }
    }

    /// The same path so that those below it share it.
    pub fn shared(self) -> Self {
        match self.last {
            Step::Here => self,
            _ => Self {
                above: Some(Rc::new(self)),
                last: Step::Here,
            },
        }
    }

    /// Writes the path behind what is there already; whether there is anything then.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        let above = match &self.above {
            Some(above) => above.write(f)?,
            None => false,
        };
        match &self.last {
            Step::Here => return Ok(above),
            Step::Member(name) => {
                if above {
                    f.write_str(".")?;
                }
                f.write_str(name)?;
                return Ok(above || !name.is_empty());
            }
            Step::Index(index) => write!(f, "[{index}]")?,
            Step::Key(key) => write!(f, "[{key}]")?,
            Step::Text(text) => {
                f.write_str(text)?;
                return Ok(above || !text.is_empty());
            }
        }
        Ok(true)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f).map(drop)
    }
}

impl<'a> From<&'a str> for Path<'a> {
    fn from(text: &'a str) -> Self {
        Self {
            above: None,
            last: Step::Text(text.into()),
        }
    }
}

impl From<String> for Path<'_> {
    fn from(text: String) -> Self {
        Self {
            above: None,
            last: Step::Text(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let spec = Path::default().then(Step::Member("spec")).shared();
        let first = spec.then(Step::Member("containers")).then(Step::Index(0));
        assert_eq!(Path::default().to_string(), "");
        assert_eq!(first.to_string(), "spec.containers[0]");
        assert_eq!(first.then(Step::Member("name")).to_string(), "spec.containers[0].name");
        assert_eq!(spec.then(Step::Key("a.b/c")).shared().to_string(), "spec[a.b/c]");
        assert_eq!(Path::from("").then(Step::Member("x")).to_string(), "x");
        assert_eq!(
            Path::from("elsewhere".to_owned()).then(Step::Member("x")).to_string(),
            "elsewhere.x"
        );
    }
}
