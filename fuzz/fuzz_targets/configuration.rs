//! gateway.yaml: whatever it says, there is a configuration or there are problems.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sluicegate::config;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let env = |name: &str| (name.len() == 1).then(|| "value".to_owned());
    // No file is found there.
    let base = Path::new("/nonexistent");
    if let Err(problems) = config::parse(text, "gateway.yaml", base, &env) {
        assert!(!problems.0.is_empty());
        let _ = problems.to_string();
    }
});
