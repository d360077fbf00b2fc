//! The transport trait, typed access and the shared cache: how every part of Trireme reaches the API.

pub mod transport;

pub use transport::{
    DeleteOptions, ListOptions, ObjectList, Patch, Propagation, ResourceRef, Target, Transport, WatchEvent, WatchOptions,
    WriteOptions,
};
