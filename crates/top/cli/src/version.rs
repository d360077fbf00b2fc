//! `trireme version`.

use clap::Args;

/// Options of `trireme version`.
#[derive(Args)]
pub(crate) struct Version {
    /// Output form
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Machine-readable forms.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Output {
    /// JSON
    Json,
}

/// Prints the version of Trireme and of the API it speaks.
pub(crate) fn run(command: &Version) -> anyhow::Result<()> {
    let trireme = env!("CARGO_PKG_VERSION");
    let kubernetes = trireme_node::KUBERNETES_VERSION;
    match command.output {
        Some(Output::Json) => println!("{}", serde_json::json!({"trireme": trireme, "kubernetes": kubernetes})),
        None => println!("trireme {trireme} (Kubernetes {kubernetes})"),
    }
    Ok(())
}
