//! The generic Kubernetes API over resource rows: one pipeline for every resource, over HTTPS and in process.

pub mod admission;
mod api_services;
pub mod authn;
pub mod authorization;
mod bootstrap;
mod bootstrap_roles;
mod descriptions;
mod discovery;
mod health;
pub mod http;
mod in_process;
pub mod keys;
mod metrics;
mod metrics_api;
mod nodes;
mod openapi;
pub mod pipeline;
mod places;
pub mod policy;
mod proxy;
mod reviews;
mod server;
mod service_allocation;
pub mod user;
mod websocket;

pub use admission::{Admission, AdmitAll};
pub use authn::Authenticator;
pub use authorization::{AllowMasters, Attributes, Authorizer, Decision};
pub use health::{Check, Health};
pub use in_process::InProcess;
pub use metrics::Metrics;
pub use nodes::{MetricsSource, NodeDialer, NodeEndpoint, NodeStream, TokenIssuer};
pub use reviews::AUDIENCE_HEADER;
pub use server::{ApiServer, Config, Extension, Plugins, connection_limits};
pub use service_allocation::Cidr;
pub use user::UserInfo;
