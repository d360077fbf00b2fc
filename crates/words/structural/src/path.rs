//! Where a walk stands, written out only where somebody reads it.
//!
//! Invariant: a step costs nothing but a frame of the walk; the two ways of writing a path are upstream's two.

/// A place in an object.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a> {
    above: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    /// A member that the schema names.
    Child(&'a str),
    /// A member that it does not name.
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path {
        above: None,
        step: Step::Root,
    };

    pub fn child(&'a self, name: &'a str) -> Self {
        Self {
            above: Some(self),
            step: Step::Child(name),
        }
    }

    pub fn key(&'a self, name: &'a str) -> Self {
        Self {
            above: Some(self),
            step: Step::Key(name),
        }
    }

    pub fn index(&'a self, index: usize) -> Self {
        Self {
            above: Some(self),
            step: Step::Index(index),
        }
    }

    pub fn is_root(&self) -> bool {
        self.above.is_none()
    }

    /// As the validator of OpenAPI writes it: all members with dots; empty at the root.
    pub fn dotted(&self) -> String {
        self.written(true)
    }

    /// As field errors write it: members that no schema names in brackets; `<nil>` at the root.
    pub fn field(&self) -> String {
        if self.is_root() {
            "<nil>".to_owned()
        } else {
            self.written(false)
        }
    }

    fn written(&self, dotted: bool) -> String {
        let mut out = match self.above {
            Some(above) => above.written(dotted),
            None => return String::new(),
        };
        match self.step {
            Step::Root => {}
            Step::Child(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Step::Key(name) if dotted => {
                out.push('.');
                out.push_str(name);
            }
            Step::Key(name) => out.extend(["[", name, "]"]),
            Step::Index(index) => out.push_str(&format!("[{index}]")),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_upstream_s() {
        let spec = Path::ROOT.child("spec");
        let key = spec.key("a");
        let index = key.index(2);
        let name = index.child("name");
        assert_eq!(
            (name.dotted(), name.field()),
            ("spec.a[2].name".into(), "spec[a][2].name".into())
        );
        assert_eq!((Path::ROOT.dotted(), Path::ROOT.field()), (String::new(), "<nil>".into()));
    }
}
