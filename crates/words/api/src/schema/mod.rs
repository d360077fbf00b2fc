//! The field table: every field of every built-in type that the API serves.
//!
//! Invariant: the table is data, parsed once from `generated/fields.txt` on first use and then immutable; all
//! references in it resolve (a test proves it). It will not describe fields in prose nor hold validation rules.

mod parse;

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

/// A struct of the API with the fields that its JSON form has. Inlined structs are flattened into `fields`; where they
/// are a message of their own on the wire, `embeds` says so.
pub struct Struct {
    /// Name in Go, for example `PodSpec`.
    pub name: &'static str,
    /// Go package below `k8s.io`, for example `api/core/v1`.
    pub package: &'static str,
    /// Fields in the order of declaration.
    pub fields: &'static [Field],
    /// Inlined structs that protobuf nests.
    pub embeds: &'static [Embed],
    /// Whether server-side apply replaces it as a whole (`structType=atomic`).
    pub atomic: bool,
    /// Indices of fields by their names: see [`slot`].
    slots: &'static [u16],
    /// Indices of the fields that Go writes where they are absent.
    always: &'static [u16],
    /// Indices of the fields that have a default.
    defaulted: &'static [u16],
    /// What the message holds, by tag.
    pub(crate) wire: &'static [Part],
}

/// One part of a message, for encoding in the order of tags.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Index into `fields`.
    Field(u16),
    /// Index into `embeds`.
    Embed(u16),
}

/// One field of a [`Struct`].
#[derive(Clone, Copy)]
pub struct Field {
    /// Name in JSON.
    pub json: &'static str,
    /// Tag in protobuf, inside the embedded message if `embedded`; 0 for `kind` and `apiVersion`, which the envelope has.
    pub tag: u32,
    /// Type.
    pub ty: Type,
    /// Type as Go's reflection prints it, without a leading pointer; decoding errors show it.
    pub go_type: &'static str,
    /// Whether it is a pointer in Go: then a present zero value is kept.
    pub pointer: bool,
    /// Whether an empty value is left out of JSON.
    pub omitempty: bool,
    /// Whether a zero struct is left out of JSON.
    pub omitzero: bool,
    /// Whether upstream marks it optional.
    pub optional: bool,
    /// How server-side apply sees a list, or `Atomic` for a map replaced as a whole, or `Granular` for a struct that is not,
    /// though structs of its type are.
    pub list_type: Option<ListType>,
    /// Keys of a list of type `Map`.
    pub map_keys: &'static [&'static str],
    /// Key by which strategic merge patch pairs elements.
    pub merge_key: Option<&'static str>,
    /// What strategic merge patch does.
    pub strategy: Option<Strategy>,
    /// Default in OpenAPI, as JSON text.
    pub default: Option<&'static str>,
    /// Whether it comes from an embed that is a message of its own on the wire.
    pub embedded: bool,
}

/// An inlined struct that protobuf writes as a nested message.
#[derive(Clone, Copy)]
pub struct Embed {
    /// Tag of the nested message.
    pub tag: u32,
    /// Its struct.
    pub ty: StructRef,
}

/// `listType` of server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Scalars owned one by one.
    Set,
    /// Elements told apart by keys.
    Map,
    /// A struct owned field by field where its type is otherwise atomic.
    Granular,
}

/// How the elements of a list are owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListShape {
    /// Replaced as a whole.
    Whole,
    /// Scalars owned one by one.
    Set,
    /// Structs told apart by those keys.
    Keyed(&'static [&'static str]),
}

/// `patchStrategy` of strategic merge patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Lists are merged.
    Merge,
    /// Fields not in the patch are dropped.
    RetainKeys,
    /// Both.
    MergeRetainKeys,
    /// Replaced.
    Replace,
}

impl Strategy {
    /// Whether lists are merged by key or as sets.
    #[must_use]
    pub fn merges(self) -> bool {
        matches!(self, Self::Merge | Self::MergeRetainKeys)
    }

    /// Whether fields that the patch does not name are dropped.
    #[must_use]
    pub fn retains_keys(self) -> bool {
        matches!(self, Self::RetainKeys | Self::MergeRetainKeys)
    }
}

/// Type of a field, list element or map value. Map keys are always strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// String or an alias of it.
    String,
    /// Boolean.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// Struct of the table.
    Struct(StructRef),
    /// List of elements.
    List(&'static Type),
    /// Object with string keys.
    Map(&'static Type),
    /// Fixed-point number with suffix ([`crate::quantity`]).
    Quantity,
    /// 32-bit integer or string.
    IntOrString,
    /// RFC 3339 in whole seconds; JSON null is the zero time.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    /// Go duration such as `1m30s`.
    Duration,
    /// Any object, kept as it is.
    RawExtension,
    /// Any JSON (`apiextensions.JSON`).
    Json,
    /// The set of fields of a managed fields entry: an object in JSON, its JSON bytes in a message on the wire.
    FieldsV1,
    /// List of strings that the wire wraps in a message (`ExtraValue`, `Verbs`).
    StringItems,
    /// `true`, `false` or a schema.
    SchemaOrBool,
    /// One schema or a list of schemas.
    SchemaOrArray,
    /// A schema or a list of strings.
    SchemaOrStrings,
}

impl Type {
    /// The struct that its objects are, those of schemas included.
    #[must_use]
    pub fn structure(self) -> Option<&'static Struct> {
        match self {
            Self::Struct(reference) => Some(reference.get()),
            Self::SchemaOrBool | Self::SchemaOrArray | Self::SchemaOrStrings => Some(json_schema_props()),
            _ => None,
        }
    }

    /// The type of what its lists and maps hold.
    #[must_use]
    pub fn element(self) -> Option<Self> {
        match self {
            Self::List(inner) | Self::Map(inner) => Some(*inner),
            Self::StringItems | Self::SchemaOrStrings => Some(Self::String),
            same @ Self::SchemaOrArray => Some(same),
            _ => None,
        }
    }

    /// The type of a member of its objects.
    #[must_use]
    pub fn member(self, name: &str) -> Option<Self> {
        match self.structure() {
            Some(ty) => ty.field(name).map(|field| field.ty),
            None => self.element(),
        }
    }

    /// Whether it is a struct in Go: `omitempty` does not leave it out.
    pub(crate) fn is_struct(&self) -> bool {
        matches!(
            self,
            Self::Struct(_)
                | Self::Quantity
                | Self::IntOrString
                | Self::Time
                | Self::MicroTime
                | Self::Duration
                | Self::RawExtension
                | Self::Json
                | Self::FieldsV1
                | Self::SchemaOrBool
                | Self::SchemaOrArray
                | Self::SchemaOrStrings
        )
    }
}

impl Field {
    /// How the elements of a list are owned: by its type, else as strategic merge patch has it. None where it is no list.
    #[must_use]
    pub fn list_shape(&'static self) -> Option<ListShape> {
        let Type::List(element) = self.ty else { return None };
        let merges = || self.strategy.is_some_and(|strategy| strategy.merges());
        Some(match (self.list_type, element, &self.merge_key) {
            (Some(ListType::Set), ..) => ListShape::Set,
            (Some(ListType::Map), Type::Struct(_), _) => ListShape::Keyed(self.map_keys),
            (None, Type::Struct(_), Some(key)) if merges() => ListShape::Keyed(std::slice::from_ref(key)),
            (None, Type::Struct(_), None) => ListShape::Whole,
            (None, ..) if merges() => ListShape::Set,
            _ => ListShape::Whole,
        })
    }

    /// Whether Go writes it also where it is absent.
    pub(crate) fn always_written(&self) -> bool {
        if self.pointer {
            !self.omitempty
        } else {
            !self.omitzero && (!self.omitempty || self.ty.is_struct())
        }
    }
}

/// Reference to a struct of the table; derefs to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StructRef(u16);

impl StructRef {
    /// The struct itself.
    #[must_use]
    pub fn get(self) -> &'static Struct {
        &TABLE.structs[usize::from(self.0)]
    }
}

impl Deref for StructRef {
    type Target = Struct;

    fn deref(&self) -> &Struct {
        self.get()
    }
}

impl fmt::Debug for StructRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Debug for Struct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.package, self.name)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: {:?}", self.json, self.tag, self.ty)
    }
}

impl PartialEq for Struct {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Struct {}

impl Struct {
    /// The field of that JSON name; case matters.
    #[must_use]
    #[inline]
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        self.position(json).map(|index| &self.fields[index])
    }

    /// Where that field stands in `fields`.
    #[must_use]
    pub fn position(&self, json: &str) -> Option<usize> {
        let mut at = slot(json, self.slots.len());
        loop {
            let index = usize::from(self.slots[at]);
            // The table has empty slots, which are behind all fields.
            if self.fields.get(index)?.json == json {
                return Some(index);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// The names of the inlined structs that a field is in, from the outside, as Go's decoding errors show them.
    #[must_use]
    pub fn embeds_of(&self, field: &Field) -> Vec<&'static str> {
        if field.tag == 0 && self.is_kind() && matches!(field.json, "kind" | "apiVersion") {
            return vec!["TypeMeta"];
        }
        if !field.embedded {
            return Vec::new();
        }
        let around = self
            .embeds
            .iter()
            .find_map(|embed| embed.ty.get().field(field.json).map(|inner| (embed.ty.get(), inner)));
        around.map_or_else(Vec::new, |(ty, inner)| {
            let mut names = vec![ty.name];
            names.extend(ty.embeds_of(inner));
            names
        })
    }

    /// The fields that Go writes also where they are absent, in the order of declaration.
    pub(crate) fn always_written(&self) -> impl Iterator<Item = &'static Field> {
        let fields = self.fields;
        self.always.iter().map(|index| &fields[usize::from(*index)])
    }

    /// The fields that have a default, in the order of declaration.
    pub fn defaulted(&self) -> impl Iterator<Item = &'static Field> {
        let fields = self.fields;
        self.defaulted.iter().map(|index| &fields[usize::from(*index)])
    }

    /// Version part of the package, as Go prints it before the name: `v1`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.package.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is a top-level type: it has `kind` and `apiVersion`.
    #[must_use]
    pub fn is_kind(&self) -> bool {
        self.fields
            .first()
            .is_some_and(|field| field.json == "kind" && field.tag == 0)
    }
}

/// Most fields of a struct.
pub(crate) const FIELDS_MAX: usize = 128;

/// Where the field of a name is looked for first among so many slots, a power of two: by its length and four of its letters.
fn slot(name: &str, slots: usize) -> usize {
    let bytes = name.as_bytes();
    let at = |index: usize| u32::from(bytes.get(index).copied().unwrap_or_default());
    let length = bytes.len();
    let letters = at(0) | at(1) << 8 | at(length / 2) << 16 | at(length.wrapping_sub(1)) << 24;
    let mixed = (letters ^ (length as u32).rotate_right(7)).wrapping_mul(0x9e37_79b1);
    (mixed >> 16) as usize & (slots - 1)
}

struct Table {
    structs: Vec<Struct>,
    /// By group, version and kind.
    kinds: HashMap<(&'static str, &'static str, &'static str), u16>,
    /// By package and name.
    names: HashMap<(&'static str, &'static str), u16>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| parse::parse(include_str!("../generated/fields.txt")));

/// Kinds of `meta.k8s.io/v1` that every group and version knows.
const COMMON: &[&str] = &[
    "Status",
    "DeleteOptions",
    "CreateOptions",
    "UpdateOptions",
    "PatchOptions",
    "ListOptions",
    "GetOptions",
    "WatchEvent",
    "APIVersions",
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
];

/// The struct of a kind, lists and options included. Options and `Status` are found in every group and version.
#[must_use]
pub fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Struct> {
    let table = &*TABLE;
    let found = table.kinds.get(&(group, version, kind)).or_else(|| {
        if COMMON.contains(&kind) {
            table.kinds.get(&("meta.k8s.io", "v1", kind))
        } else if (group, version, kind) == ("", "v1", "List") {
            table.kinds.get(&("meta.k8s.io", "v1", "List"))
        } else {
            None
        }
    });
    found.map(|index| &table.structs[usize::from(*index)])
}

/// The struct of that Go package and name, for example `("apimachinery/pkg/apis/meta/v1", "ObjectMeta")`.
#[must_use]
pub fn named(package: &str, name: &str) -> Option<&'static Struct> {
    let table = &*TABLE;
    table
        .names
        .get(&(package, name))
        .map(|index| &table.structs[usize::from(*index)])
}

/// `metav1.ObjectMeta`.
///
/// # Panics
/// Never: the table holds it, a test says so.
#[must_use]
pub fn object_meta() -> &'static Struct {
    named(META, "ObjectMeta").expect("the table has ObjectMeta")
}

/// `metav1.ListMeta`.
///
/// # Panics
/// Never: the table holds it, a test says so.
#[must_use]
pub fn list_meta() -> &'static Struct {
    named(META, "ListMeta").expect("the table has ListMeta")
}

/// `apiextensions/v1.JSONSchemaProps`.
///
/// # Panics
/// Never: the table holds it, a test says so.
#[must_use]
pub fn json_schema_props() -> &'static Struct {
    static PROPS: LazyLock<&Struct> =
        LazyLock::new(|| named(APIEXTENSIONS, "JSONSchemaProps").expect("the table has JSONSchemaProps"));
    *PROPS
}

/// All structs.
pub fn all() -> impl Iterator<Item = &'static Struct> {
    TABLE.structs.iter()
}

/// All kinds as (group, version, kind, struct), in no order.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static Struct)> {
    let table = &*TABLE;
    table
        .kinds
        .iter()
        .map(|((group, version, kind), index)| (*group, *version, *kind, &table.structs[usize::from(*index)]))
}

/// Go package of ObjectMeta and its like.
pub const META: &str = "apimachinery/pkg/apis/meta/v1";
/// Go package of CustomResourceDefinition.
pub const APIEXTENSIONS: &str = "apiextensions-apiserver/pkg/apis/apiextensions/v1";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_field_is_found_by_its_name_alone() {
        for ty in all() {
            for (index, field) in ty.fields.iter().enumerate() {
                assert_eq!(ty.position(field.json), Some(index), "{ty:?}: {}", field.json);
                for other in [field.json.to_uppercase(), format!("{}x", field.json)] {
                    let found = ty.field(&other).map(|field| field.json);
                    assert!(found.is_none_or(|found| found == other), "{ty:?}: {other}");
                }
            }
            assert!(ty.field("").is_none());
        }
    }

    #[test]
    fn the_committed_table_is_consistent() {
        let mut count = 0;
        for ty in all() {
            count += 1;
            let mut names = HashSet::new();
            let mut tags = HashSet::new();
            for embed in ty.embeds {
                assert!(tags.insert(embed.tag), "{ty:?}: tag {} twice", embed.tag);
                for inner in embed.ty.fields {
                    assert!(
                        ty.field(inner.json).is_some_and(|field| field.embedded),
                        "{ty:?} lacks {}",
                        inner.json
                    );
                }
            }
            for field in ty.fields {
                assert!(names.insert(field.json), "{ty:?}: {} twice", field.json);
                if !field.embedded && field.tag != 0 {
                    assert!(tags.insert(field.tag), "{ty:?}: tag {} twice", field.tag);
                }
                assert!(std::ptr::eq(ty.field(field.json).unwrap(), field));
                let mut inner = field.ty;
                while let Type::List(next) | Type::Map(next) = inner {
                    inner = *next;
                }
                if let Type::Struct(reference) = inner {
                    assert!(!reference.get().name.is_empty());
                    if field.list_type == Some(ListType::Map) {
                        for key in field.map_keys {
                            assert!(reference.field(key).is_some(), "{ty:?}.{}: no key {key}", field.json);
                        }
                    }
                    if let Some(key) = field.merge_key {
                        assert!(reference.field(key).is_some(), "{ty:?}.{}: no merge key {key}", field.json);
                    }
                }
                if let Some(default) = field.default {
                    assert!(serde_json::from_str::<serde_json::Value>(default).is_ok(), "{default}");
                }
            }
            assert!(ty.field("no such field").is_none());
        }
        assert!(count > 600, "{count}");
    }

    #[test]
    fn kinds_are_found_by_group_version_kind() {
        assert_eq!(kind("", "v1", "Pod").unwrap().name, "Pod");
        assert_eq!(kind("apps", "v1", "DeploymentList").unwrap().package, "api/apps/v1");
        assert_eq!(kind("apps", "v1", "DeleteOptions").unwrap().package, META);
        assert_eq!(kind("autoscaling", "v1", "Scale").unwrap().name, "Scale");
        assert!(kind("metrics.k8s.io", "v1beta1", "NodeMetrics").is_some());
        assert!(kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition").is_some());
        assert!(kind("apiregistration.k8s.io", "v1", "APIService").is_some());
        assert!(kind("", "v1", "List").unwrap().field("items").is_some());
        assert!(kind("", "v1", "PodSpec").is_none());
        assert!(kind("", "v1", "Gadget").is_none());
        let spec = kind("", "v1", "Pod").unwrap().field("spec").unwrap();
        let Type::Struct(spec) = spec.ty else { panic!() };
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.list_type, Some(ListType::Map));
        assert_eq!(containers.merge_key, Some("name"));
        assert_eq!(containers.go_type, "[]v1.Container");
        let Type::Struct(service) = kind("", "v1", "Service").unwrap().field("spec").unwrap().ty else {
            panic!()
        };
        assert_eq!(service.field("selector").unwrap().list_type, Some(ListType::Atomic));
        assert!(named(META, "LabelSelector").unwrap().atomic);
        assert!(object_meta().field("creationTimestamp").unwrap().omitzero);
    }
}
