//! Hand-made Secrets that hold a token of a service account. The signing key is handed in.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use trireme_api::{Object, Status};
use trireme_client::ResourceRef;
use trireme_reconcile::account_token::{self, Order, Snapshot, account_of, is_meant};

use crate::registration::{Context, Key, Registration};

/// The token could not be signed; the signer has told why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token of a service account could not be signed")]
pub struct Unsigned;

/// Signs tokens of service accounts that last as long as their Secret.
pub trait TokenSigner: Send + Sync + 'static {
    /// The token that is ordered.
    ///
    /// # Errors
    /// [`Unsigned`]; the Secret is looked at again with back-off.
    fn sign(&self, order: &Order) -> Result<String, Unsigned>;
}

pub(super) fn registration(signer: Arc<dyn TokenSigner>, root_ca: &str) -> Registration {
    let root_ca: Arc<str> = root_ca.into();
    Registration::with_live_snapshot(
        "serviceaccount-token-controller",
        move |context, key| snapshot(context, key, Arc::clone(&signer), Arc::clone(&root_ca)),
        account_token::reconcile,
    )
    .account("tokens-controller")
    .queue("serviceaccount_tokens_secret")
    .watch::<Secret>(|_, change| {
        let wants = change.new.as_ref().is_some_and(may_want);
        if wants { vec![Key::of(change)] } else { Vec::new() }
    })
    .watch::<ServiceAccount>(|cache, change| {
        let secrets = cache.objects(&ResourceRef::of::<Secret>(), Some(&change.namespace));
        let wanting = secrets.iter().filter(|secret| may_want(secret));
        wanting
            .map(|secret| Key::new(&change.namespace, &secret.header().name))
            .collect()
    })
}

/// Whether a Secret may be one that wants a token. Most are not, and are not worth a decode.
fn may_want(secret: &Object) -> bool {
    std::str::from_utf8(secret.bytes()).is_ok_and(|text| text.contains(account_token::SECRET_TYPE))
}

async fn snapshot(
    context: Context,
    key: Key,
    signer: Arc<dyn TokenSigner>,
    root_ca: Arc<str>,
) -> Result<Option<Snapshot>, Status> {
    let Some(secret) = context.cache.get::<Secret>(&key.namespace, &key.name) else {
        return Ok(None);
    };
    let Some((name, _)) = account_of(&secret) else {
        return Ok(None);
    };
    let cached = context.cache.get::<ServiceAccount>(&key.namespace, name);
    let account = match cached.filter(|account| is_meant(&secret, account)) {
        Some(account) => Some(account),
        // The cache may not have it yet, and a Secret is not deleted for that.
        None => {
            let found = context.client.find::<ServiceAccount>(&key.namespace, name).await?;
            found.filter(|account| is_meant(&secret, account))
        }
    };
    let order = account.as_ref().and_then(|account| account_token::order(&secret, account));
    let token = order.map(|order| signer.sign(&order)).transpose();
    Ok(Some(Snapshot {
        token: token.map_err(|unsigned| Status::internal(&unsigned.to_string()))?,
        secret,
        account,
        root_ca,
    }))
}
