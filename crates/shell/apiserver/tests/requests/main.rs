//! Requests to an API server over a store in memory, and what they are answered.

mod answers;
mod authority;
mod common;
mod credentials;
mod crowds;
mod custom;
mod custom_apply;
mod definitions;
mod proxies;
mod streams;
mod tls;
mod verbs;
mod webhooks;
mod words;
mod writes;
