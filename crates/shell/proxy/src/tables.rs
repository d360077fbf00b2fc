//! The kernel's tables of one name, brought from one complete ruleset to the next.
//!
//! Invariant: one transaction each; what a former process left is taken over without a gap.

use std::sync::Arc;

use trireme_network::{NftError, Nftables};
use trireme_routing::{Existing, Ruleset};

pub(crate) struct Tables {
    nft: Arc<dyn Nftables>,
    name: &'static str,
    /// What the kernel is known to hold; `None` at the start and after a refusal.
    applied: Option<Ruleset>,
}

impl Tables {
    pub(crate) fn new(nft: Arc<dyn Nftables>, name: &'static str) -> Self {
        Self {
            nft,
            name,
            applied: None,
        }
    }

    /// Whether what the kernel holds is known.
    pub(crate) fn is_known(&self) -> bool {
        self.applied.is_some()
    }

    /// Brings the kernel there; true if that changed something. After an error all is applied anew.
    pub(crate) async fn bring(&mut self, new: Ruleset) -> Result<bool, NftError> {
        let changed = match self.applied.take() {
            Some(old) if old == new => false,
            Some(old) => {
                let change = new.change_from(&old);
                self.nft.apply(&change.apply).await?;
                self.nft.apply(&change.cleanup).await?;
                true
            }
            None => self.take_over(&new).await?,
        };
        self.applied = Some(new);
        Ok(changed)
    }

    /// Forgets what was applied if the kernel holds something else.
    pub(crate) async fn look(&mut self) {
        let Some(applied) = &self.applied else { return };
        match self.chains().await {
            Ok(existing) if existing.is_of(applied) => {}
            Ok(_) => {
                tracing::info!(table = self.name, "somebody else changed the rules, applying them anew");
                self.applied = None;
            }
            Err(error) => tracing::warn!("cannot look at the rules: {error}"),
        }
    }

    async fn chains(&self) -> Result<Existing, NftError> {
        let mut existing = Existing::of(self.name);
        existing.add_listing(&self.nft.chains().await?);
        Ok(existing)
    }

    /// Nothing if an earlier life left just these rules; otherwise first what keeps the memory of clients; if the kernel
    /// holds something of another shape, all anew.
    async fn take_over(&self, new: &Ruleset) -> Result<bool, NftError> {
        if self.chains().await?.is_of(new) {
            return Ok(false);
        }
        let mut existing = Existing::of(self.name);
        for listing in self.nft.listings(self.name).await? {
            existing.add_listing(&listing);
        }
        let change = new.adopt(&existing);
        match self.nft.apply(&change.apply).await {
            Ok(()) => {}
            Err(NftError::Refused(reason)) => {
                tracing::info!("the kernel's rules cannot be adopted, replacing them: {reason}");
                self.nft.apply(&new.replace()).await?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        match self.nft.apply(&change.cleanup).await {
            Err(NftError::Refused(reason)) => {
                tracing::info!("unused rules cannot be removed, replacing all: {reason}");
                self.nft.apply(&new.replace()).await?;
            }
            other => other?,
        }
        Ok(true)
    }
}
