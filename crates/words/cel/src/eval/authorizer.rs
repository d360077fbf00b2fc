//! What users may do: expressions put a question together and the caller answers it.

use std::sync::Arc;

/// Answers questions.
pub trait Authorizer {
    /// Whether a user may do something.
    fn decide(&self, question: &Question) -> Decision;
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The service account that is asked about, by name space and name; none for the user of the request.
    pub service_account: Option<(Box<str>, Box<str>)>,
    /// What is to be done.
    pub verb: Box<str>,
    /// A path that is no resource; then all below is empty.
    pub path: Option<Box<str>>,
    /// The API group.
    pub group: Box<str>,
    /// The resource.
    pub resource: Box<str>,
    /// The subresource.
    pub subresource: Box<str>,
    /// The name space.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// The field selector, as it is written.
    pub field_selector: Box<str>,
    /// The label selector, as it is written.
    pub label_selector: Box<str>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: Box<str>,
    /// What went wrong while that was found out.
    pub error: Option<Box<str>>,
}

/// A question that is being put together, or its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// About nothing yet.
    Authorizer(Question),
    /// About a path.
    Path(Question),
    /// About a group.
    Group(Question),
    /// About a resource.
    Resource(Question),
    /// Answered.
    Decision(Decision),
}

impl Check {
    /// What `authorizer` stands for.
    #[must_use]
    pub fn authorizer() -> super::Val<'static> {
        super::Val::Check(Arc::new(Self::Authorizer(Question::default())))
    }

    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(_) => "kubernetes.authorization.PathCheck",
            Self::Group(_) => "kubernetes.authorization.GroupCheck",
            Self::Resource(_) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }
}
