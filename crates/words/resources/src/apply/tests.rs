//! Ownership and merging, case by case.

use super::*;
use crate::rows::find;
use serde_json::json;
