//! `trireme images`: what the node's image store holds.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use trireme_runtime::cri::Image;
use trireme_runtime::images::ImageStore;

/// Options of `trireme images`.
#[derive(Args)]
pub(crate) struct Images {
    /// Directory of everything that must survive a restart, as given to the server
    #[arg(long, env = "TRIREME_DATA_DIR", default_value = "/var/lib/trireme", global = true)]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Import images from OCI or docker archives; they are never collected
    Import {
        /// Archives (tar, also compressed) or OCI layout directories
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// List images
    #[command(alias = "ls")]
    List {
        /// Output form
        #[arg(short, long, value_enum)]
        output: Option<crate::version::Output>,
    },
    /// Remove images by name or id
    Rm {
        /// Names or ids
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Pull images from their registries
    Pull {
        /// Names
        #[arg(required = true)]
        references: Vec<String>,
    },
}

/// Runs an images command.
pub(crate) fn run(images: Images) -> anyhow::Result<()> {
    let directory = images.data_dir.join("runtime");
    let store = ImageStore::open(&directory).with_context(|| format!("opening the image store below {}", directory.display()))?;
    match images.command {
        Command::Import { paths } => {
            for path in paths {
                for image in store.import(&path).with_context(|| format!("importing {}", path.display()))? {
                    println!("{}", image.repo_tags.first().unwrap_or(&image.id));
                }
            }
        }
        Command::List { output } => list(&store.list()?, output.is_some())?,
        Command::Rm { references } => {
            for reference in references {
                if !store.remove(&reference)? {
                    bail!("there is no image {reference}; `trireme images list` shows what there is");
                }
                println!("removed {reference}");
            }
        }
        Command::Pull { references } => {
            if rustls::crypto::ring::default_provider().install_default().is_err() {
                tracing::debug!("a TLS provider is installed already");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            for reference in references {
                let progress = indicatif::ProgressBar::new_spinner().with_message(format!("pulling {reference}"));
                progress.enable_steady_tick(std::time::Duration::from_millis(100));
                let pulled = runtime.block_on(store.pull(&reference, None));
                progress.finish_and_clear();
                println!("{}", pulled.with_context(|| format!("pulling {reference}"))?);
            }
        }
    }
    Ok(())
}

fn list(images: &[Image], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(images)?);
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["IMAGE", "ID", "SIZE", "PINNED"]);
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = format!("{:.1} MB", image.size as f64 / 1e6);
        let names = if image.repo_tags.is_empty() {
            vec!["<none>".to_owned()]
        } else {
            image.repo_tags.clone()
        };
        for name in names {
            table.add_row([
                name,
                id.clone(),
                size.clone(),
                if image.pinned { "yes" } else { "" }.to_owned(),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}
