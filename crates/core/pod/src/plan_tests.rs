//! Table of what is planned for a pod in each of its situations.
