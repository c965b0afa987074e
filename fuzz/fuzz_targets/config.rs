//! Configurations of runs, and what is derived from them before anything runs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use tilewise::train::Config;

fuzz_target!(|data: &[u8]| {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    fs::write(file.path(), data).expect("a temporary file");
    let Ok(config) = Config::read(file.path()) else { return };
    let _ = config.labels();
    if config.validate().is_ok() {
        let _ = config.training();
        for step in [1, config.steps / 2, config.steps] {
            assert!(config.learning_rate_at(step).is_finite(), "{config:?}");
        }
        let text = config.to_toml().expect("what was read can be written");
        fs::write(file.path(), text).expect("a temporary file");
        let again = Config::read(file.path()).expect("what was written can be read");
        // Relative folders are written out whole, so that a run can go on from elsewhere.
        let folders = (again.data.clone(), again.val.clone());
        assert_eq!(again, Config { data: folders.0, val: folders.1, ..config });
    }
});
