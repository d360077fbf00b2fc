//! Bad input: each gets upstream's form of error or one clear line that says what to do, and changes nothing.

mod host;
mod requests;

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("manifests_that_are_wrong_are_refused", requests::manifests),
    ("bodies_that_are_wrong_are_refused", requests::bodies),
    ("selectors_and_paths_that_are_wrong_are_refused", requests::queries),
    ("nobody_and_strangers_are_refused", requests::strangers),
    ("values_that_are_wrong_are_refused", requests::values),
    ("an_image_that_does_not_exist_is_told", requests::image),
    ("a_host_that_is_taken_is_told", host::taken),
    ("a_configuration_that_is_wrong_is_told", host::configuration),
    ("a_user_without_rights_is_told", host::rights),
    ("a_tool_that_is_missing_is_told", host::tools),
    ("an_archive_that_is_none_is_told", host::archives),
];
