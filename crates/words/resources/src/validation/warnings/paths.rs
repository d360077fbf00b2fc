//! Paths in one volume that cover each other: what two of its sources would write to the same place.

use super::super::node::Node;
use super::super::show::quoted;
use super::Warnings;

/// Most pairs told of one volume; more would not fit into an answer's headers.
const PAIRS_MAX: usize = 64;

/// A path inside a volume, and whose it is where a volume has several sources.
struct Placed {
    path: String,
    source: String,
}

impl Placed {
    fn new(path: &str, source: &str) -> Self {
        Self {
            path: path.trim_end_matches('/').to_owned(),
            source: source.to_owned(),
        }
    }

    fn shown(&self) -> String {
        if self.source.is_empty() {
            quoted(&self.path)
        } else {
            format!("{} ({})", quoted(&self.path), self.source)
        }
    }
}

/// Of every volume that is made of named files.
pub(super) fn overlaps(out: &mut Warnings, volumes: &Node<'_>) {
    for volume in volumes.items() {
        let name = quoted(volume.text("name"));
        let sources = [
            (
                "configMap",
                format!("ConfigMap {}", quoted(volume.at("configMap").text("name"))),
            ),
            ("secret", format!("Secret {}", quoted(volume.at("secret").text("secretName")))),
            ("downwardAPI", "DownwardAPI".to_owned()),
        ];
        for (field, what) in sources {
            meetings(out, &files(&volume.at(field), ""), &format!("volume {name} ({what})"));
        }
        let mut placed = Vec::new();
        for source in volume.at("projected").at("sources").items() {
            if source.is_empty() {
                out.push(format!("volume {name} (Projected) has no sources provided"));
            } else {
                placed.extend(projected(&source));
            }
        }
        meetings(out, &placed, &format!("volume {name} (Projected)"));
    }
}

/// Pairs of paths of which one is the other or lies below it, later ones first. In the order of texts, whatever covers
/// a path stands before it in one chain; so it costs no more than sorting, however many there are.
fn meetings(out: &mut Warnings, placed: &[Placed], place: &str) {
    let mut sorted: Vec<(String, usize)> = placed
        .iter()
        .enumerate()
        .filter(|(_, file)| !file.path.is_empty())
        .map(|(index, file)| (format!("{}/", file.path), index))
        .collect();
    sorted.sort_unstable();
    let mut covering: Vec<&(String, usize)> = Vec::new();
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for file in &sorted {
        while covering.last().is_some_and(|(path, _)| !file.0.starts_with(path.as_str())) {
            covering.pop();
        }
        let room = PAIRS_MAX.saturating_sub(pairs.len());
        pairs.extend(
            covering
                .iter()
                .take(room)
                .map(|(_, other)| (file.1.max(*other), file.1.min(*other))),
        );
        covering.push(file);
    }
    pairs.sort_unstable();
    for (later, earlier) in pairs {
        out.push(format!(
            "{place}: overlapping paths: {} with {}",
            placed[later].shown(),
            placed[earlier].shown()
        ));
    }
}

fn files(source: &Node<'_>, what: &str) -> Vec<Placed> {
    let items = source.at("items").items();
    items.iter().map(|item| Placed::new(item.text("path"), what)).collect()
}

/// What one source of a projected volume writes; the first of its kinds counts.
fn projected(source: &Node<'_>) -> Vec<Placed> {
    for (field, what) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        let named = source.at(field);
        if named.has("items") {
            return files(&named, &format!("{what} {}", quoted(named.text("name"))));
        }
    }
    if source.at("downwardAPI").has("items") {
        return files(&source.at("downwardAPI"), "DownwardAPI");
    }
    let token = source.at("serviceAccountToken");
    if token.set() {
        return vec![Placed::new(token.text("path"), "ServiceAccountToken")];
    }
    let bundle = source.at("clusterTrustBundle");
    if bundle.set() {
        let name = if bundle.has("name") { "name" } else { "signerName" };
        let what = format!("ClusterTrustBundle {}", quoted(bundle.text(name)));
        return vec![Placed::new(bundle.text("path"), &what)];
    }
    let certificate = source.at("podCertificate");
    [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ]
    .into_iter()
    .filter(|(field, _)| !certificate.text(field).is_empty())
    .map(|(field, what)| Placed::new(certificate.text(field), what))
    .collect()
}
