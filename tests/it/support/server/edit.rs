//! Edits of the configuration file under a running server, and what the server makes of them.

use std::fs;

use serde_json::Value;

use super::{ConfigTree, Omnidaemon};

/// What the log says after a reload.
const APPLIED_MESSAGE: &str = "config applied";
const REFUSED_MESSAGE: &str = "config refused";

/// How an edit reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveMethod {
    /// Truncates and writes, as a shell's `>` and some editors do.
    InPlace,
    /// Writes beside it and renames over it, as most editors and `sed -i` do.
    Rename,
    /// Swaps the directory that the file is a link into, as Kubernetes does; needs
    /// [`ServerBuilder::with_config_map`].
    SymlinkSwap,
}

impl Omnidaemon {
    /// The generated config as its file has it now.
    ///
    /// # Panics
    /// When the file is not a generated one.
    pub fn read_config(&self) -> ConfigTree {
        let text = fs::read_to_string(self.builder.config_path());
        ConfigTree::parse(&text.expect("the config can be read"))
    }

    /// Sets one value of a generated config, saves the file and waits until the server has applied
    /// it.
    ///
    /// # Panics
    /// When the config has this value already, or the server does not apply the file in good time.
    pub async fn apply_setting(&mut self, path: &str, value: impl Into<Value>) {
        self.save_setting(path, value);
        self.wait_until_config_applied().await;
    }

    /// Sets one value of a generated config and saves the file.
    ///
    /// # Panics
    /// When the config has this value already.
    pub fn save_setting(&mut self, path: &str, value: impl Into<Value>) {
        self.edit_config(|text| {
            let mut config = ConfigTree::parse(text);
            config.set(path, value);
            config.to_text()
        });
    }

    /// Edits the config and saves it in place.
    ///
    /// # Panics
    /// When the edit changes nothing.
    pub fn edit_config(&mut self, edit: impl FnOnce(&str) -> String) {
        self.edit_config_with(SaveMethod::InPlace, edit);
    }

    /// Edits the config and saves it in a given way.
    ///
    /// # Panics
    /// When the edit changes nothing.
    pub fn edit_config_with(&mut self, save: SaveMethod, edit: impl FnOnce(&str) -> String) {
        let config = self.builder.config_path();
        let old = fs::read_to_string(&config).expect("the config can be read");
        let new = edit(&old);
        assert_ne!(old, new, "the edit changes nothing");
        self.edit_log_mark = self.logs().len();
        self.save_count += 1;
        assert_eq!(
            save == SaveMethod::SymlinkSwap,
            self.builder.config_map,
            "links are swapped where there are links"
        );
        match save {
            SaveMethod::InPlace => fs::write(&config, new).expect("the config can be written"),
            SaveMethod::Rename => {
                let beside = config.with_extension("yaml.new");
                fs::write(&beside, new).expect("the config can be written");
                fs::rename(&beside, &config).expect("the config can be replaced");
            }
            SaveMethod::SymlinkSwap => self.builder.swap_config_link(self.save_count, &new),
        }
    }

    /// Waits until the last edit rules.
    ///
    /// # Panics
    /// When it doesn't in good time; the log shows why.
    pub async fn wait_until_config_applied(&mut self) {
        self.process
            .wait_for_log(APPLIED_MESSAGE, self.edit_log_mark, |line| {
                line.contains(APPLIED_MESSAGE).then_some(())
            })
            .await;
    }

    /// Waits until the last edit is refused, and returns the log line that says so.
    ///
    /// # Panics
    /// When it isn't in good time.
    pub async fn wait_until_config_refused(&mut self) -> String {
        self.process
            .wait_for_log(REFUSED_MESSAGE, self.edit_log_mark, |line| {
                line.contains(REFUSED_MESSAGE).then(|| line.to_owned())
            })
            .await
    }
}
