//! The JSON Schema of gateway.yaml, for editors.

use schemars::{Schema, generate::SchemaSettings};

use super::file::File;

/// Draft 2020-12, with the doc comments of [`super::file`] as descriptions.
pub fn schema() -> Schema {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>()
}
