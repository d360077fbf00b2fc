//! Content negotiation: which of the formats and transforms an `Accept` header asks for.
//!
//! Invariant: the first acceptable clause by quality wins, in the order written.

use trireme_api::{Status, StatusDetails};

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Format {
    /// The media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// JSON's media type.
pub const JSON: &str = "application/json";
/// YAML's media type.
pub const YAML: &str = "application/yaml";
/// Kubernetes' protobuf envelope's media type.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What shape of the objects is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shape {
    /// The objects themselves.
    #[default]
    Plain,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata` or its list.
    Metadata,
    /// `trireme/v1 Peers`: what network policies need of pods; who asks for it needs the right to `pods/peers` alone.
    Peers,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
    AggregatedDiscovery,
}

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Format of the answer.
    pub format: Format,
    /// Shape of the answer.
    pub shape: Shape,
}

/// Which shapes a route offers beside the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// One object or the answer to a write.
    Object,
    /// A collection.
    List,
    /// A stream of events: no YAML, and items have the object's shapes.
    Watch,
    /// The answer to a question or an action, which is no stored object: it has metadata but no columns.
    Review,
    /// A discovery document.
    Discovery,
    /// Anything else: no transforms.
    Plain,
}

/// Chooses by an `Accept` header; an absent or empty one means JSON.
///
/// # Errors
/// 406 with upstream's two texts.
pub fn negotiate(header: Option<&str>, offer: Offer) -> Result<Accepted, Status> {
    let Some(header) = header.filter(|text| !text.trim().is_empty()) else {
        return Ok(Accepted::default());
    };
    let mut clauses: Vec<(f32, Clause<'_>)> = header.split(',').filter_map(Clause::parse).collect();
    clauses.sort_by(|left, right| right.0.total_cmp(&left.0));
    if !clauses.iter().any(|(_, clause)| clause.formats().next().is_some()) {
        return Err(no_representation());
    }
    let chosen = clauses
        .iter()
        .find_map(|(_, clause)| clause.formats().find_map(|format| clause.accepted(format, offer)));
    chosen.ok_or_else(|| not_acceptable(offer))
}

fn no_representation() -> Status {
    let text = format!("406: Not Acceptable\n\nAvailable representations: {JSON}, {YAML}, {PROTOBUF}");
    Status::failure(406, "NotAcceptable", text).with_details(StatusDetails::default())
}

fn not_acceptable(offer: Offer) -> Status {
    let types = if offer == Offer::Watch {
        format!("{JSON};stream=watch, {PROTOBUF};stream=watch")
    } else {
        format!("{JSON}, {YAML}, {PROTOBUF}")
    };
    Status::failure(
        406,
        "NotAcceptable",
        format!("only the following media types are accepted: {types}"),
    )
}

struct Clause<'a> {
    media: &'a str,
    target: Option<(&'a str, &'a str, &'a str)>,
    broken: bool,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<(f32, Self)> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let (mut quality, mut broken) = (1.0, false);
        let (mut shape, mut group, mut version) = (None, "", "");
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name.trim() {
                "q" => quality = value.trim().parse().unwrap_or(1.0),
                "as" => shape = Some(value.trim()),
                "g" => group = value.trim(),
                "v" => version = value.trim(),
                "stream" => broken |= value.trim() != "watch",
                "charset" => broken |= !value.trim().eq_ignore_ascii_case("utf-8"),
                _ => {}
            }
        }
        let target = shape.map(|shape| (shape, group, version));
        Some((quality, Self { media, target, broken }))
    }

    fn formats(&self) -> impl Iterator<Item = Format> + use<> {
        let formats: &[Format] = match self.media {
            JSON | "*/*" => &[Format::Json],
            YAML => &[Format::Yaml],
            PROTOBUF => &[Format::Protobuf],
            _ => &[],
        };
        formats.iter().copied()
    }

    fn accepted(&self, format: Format, offer: Offer) -> Option<Accepted> {
        if self.broken || (offer == Offer::Watch && format == Format::Yaml) {
            return None;
        }
        let shape = match (self.target, offer) {
            (None, _) => Shape::Plain,
            (Some((shape, "meta.k8s.io", "v1")), Offer::Object | Offer::Watch) => match shape {
                "Table" => Shape::Table,
                "PartialObjectMetadata" => Shape::Metadata,
                _ => return None,
            },
            (Some(("PartialObjectMetadata", "meta.k8s.io", "v1")), Offer::Review) => Shape::Metadata,
            (Some((shape, "meta.k8s.io", "v1")), Offer::List) => match shape {
                "Table" => Shape::Table,
                "PartialObjectMetadataList" => Shape::Metadata,
                _ => return None,
            },
            (Some(("Peers", "trireme", "v1")), Offer::List | Offer::Watch) => Shape::Peers,
            (Some(("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2")), Offer::Discovery) => Shape::AggregatedDiscovery,
            _ => return None,
        };
        Some(Accepted { format, shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, offer: Offer, expected: Option<(Format, Shape)>) {
        let actual = negotiate(Some(header), offer).ok().map(|found| (found.format, found.shape));
        assert_eq!(actual, expected, "{header}");
    }

    #[test]
    fn clauses_are_tried_by_quality_and_order() {
        use Format::{Json, Protobuf, Yaml};
        use Shape::{AggregatedDiscovery, Metadata, Plain, Table};
        let kubectl =
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, Offer::List, Some((Json, Table)));
        check(
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
            Offer::List,
            Some((Json, Plain)),
        );
        check("application/json;as=Table;v=v9;g=meta.k8s.io", Offer::List, None);
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Offer::Object,
            Some((Protobuf, Plain)),
        );
        check(
            "application/json;q=0.1,application/yaml;q=0.9",
            Offer::Object,
            Some((Yaml, Plain)),
        );
        for (offer, expected) in [
            (Offer::List, Some((Json, Shape::Peers))),
            (Offer::Watch, Some((Json, Shape::Peers))),
            (Offer::Object, None),
        ] {
            check("application/json;as=Peers;g=trireme;v=v1", offer, expected);
        }
        check("application/yaml", Offer::Watch, None);
        check("*/*", Offer::Watch, Some((Json, Plain)));
        check("application/*", Offer::Object, None);
        check("application/*,application/json", Offer::Object, Some((Json, Plain)));
        check("application/json;as=Table;v=v1;g=meta.k8s.io", Offer::Review, None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Offer::Review,
            Some((Json, Plain)),
        );
        check(
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            Offer::Watch,
            Some((Json, Metadata)),
        );
        check(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
            Offer::Discovery,
            Some((Json, AggregatedDiscovery)),
        );
        assert!(
            negotiate(Some("text/plain"), Offer::Object)
                .unwrap_err()
                .message
                .starts_with("406: Not Acceptable")
        );
    }
}
