//! Resource rows, defaults, validation, patches, server-side apply and tables.
