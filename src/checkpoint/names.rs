//! What the tensors of another's file are called here: a file of names.

use crate::error::{Error, Result};
use crate::file;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// New names for tensors, read from a TOML file of lines `"theirs" = "ours"`.
///
/// Theirs may have `*`, each for one character or more; ours then has as many, which are given the same text in the same order. The text of
/// a `*` ends where what follows it is first found. A name without `*` goes before those with. Where ours is empty, the tensor is left out;
/// tensors that no line names keep their names.
#[derive(Clone, Debug)]
pub struct Names {
    path: PathBuf,
    lines: BTreeMap<String, String>,
}

/// The largest file of names.
const LARGEST_FILE_BYTES: u64 = 1 << 20;

impl Names {
    /// Reads a file of names.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Data`] when it is no such file.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let text = file::read_text(&path, LARGEST_FILE_BYTES)?;
        Self::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<Self> {
        let lines: BTreeMap<String, String> = toml::from_str(text).map_err(|error| {
            Error::data(&path, format!("expected lines \"name in the file\" = \"name in the network\": {error}"))
        })?;
        let stars = |name: &str| name.matches('*').count();
        if let Some((theirs, ours)) =
            lines.iter().find(|(theirs, ours)| !ours.is_empty() && stars(theirs) != stars(ours))
        {
            return Err(Error::data(&path, format!("\"{theirs}\" = \"{ours}\" has not as many * on both sides")));
        }
        Ok(Self { path, lines })
    }

    /// Tensors under their new names, or what is wrong with these.
    pub(super) fn rename<T>(&self, tensors: BTreeMap<String, T>) -> Result<BTreeMap<String, T>> {
        let mut unused: BTreeSet<&str> = self.lines.keys().map(String::as_str).collect();
        let mut renamed: BTreeMap<String, (String, T)> = BTreeMap::new();
        for (name, tensor) in tensors {
            let new = match self.lines.get_key_value(&name) {
                Some((theirs, ours)) => {
                    unused.remove(theirs.as_str());
                    ours.clone()
                }
                None => self.by_pattern(&name, &mut unused)?.unwrap_or_else(|| name.clone()),
            };
            if new.is_empty() {
                continue;
            }
            if let Some((other, _)) = renamed.get(&new) {
                return Err(Error::data(&self.path, format!("`{other}` and `{name}` are both called `{new}`")));
            }
            renamed.insert(new, (name, tensor));
        }
        if let Some(line) = unused.first() {
            // Names of any length would take any time.
            let near = renamed.values().map(|(name, _)| name).filter(|name| name.len() <= 200);
            let near = near.map(|name| (strsim::normalized_levenshtein(line, name), name));
            let near = near.max_by(|(one, _), (other, _)| one.total_cmp(other));
            let near = near.map_or(String::new(), |(_, name)| format!("; the most like it is `{name}`"));
            return Err(Error::data(&self.path, format!("\"{line}\" is no tensor of the file{near}")));
        }
        Ok(renamed.into_iter().map(|(new, (_, tensor))| (new, tensor)).collect())
    }

    /// The name by the one line with `*` that this name fits, if there is one.
    fn by_pattern<'a>(&'a self, name: &str, unused: &mut BTreeSet<&'a str>) -> Result<Option<String>> {
        let mut fitting = self.lines.iter().filter_map(|(theirs, ours)| Some((theirs, ours, captured(theirs, name)?)));
        let Some((theirs, ours, texts)) = fitting.next() else { return Ok(None) };
        if let Some((other, ..)) = fitting.next() {
            let problem = format!("`{name}` fits both \"{theirs}\" and \"{other}\": name it without *");
            return Err(Error::data(&self.path, problem));
        }
        unused.remove(theirs.as_str());
        if ours.is_empty() {
            return Ok(Some(String::new()));
        }
        // As many texts as stars, and one more piece than stars.
        let pieces = ours.split('*').map(str::to_owned).enumerate();
        Ok(Some(pieces.map(|(star, piece)| piece + texts.get(star).copied().unwrap_or_default()).collect()))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What each `*` of a pattern stands for in a name; `None` where the name does not fit, or the pattern has no `*`.
fn captured<'a>(pattern: &str, name: &'a str) -> Option<Vec<&'a str>> {
    let (start, pattern) = pattern.split_once('*')?;
    let mut rest = name.strip_prefix(start)?;
    let mut texts = Vec::new();
    let mut pieces = pattern.split('*').peekable();
    while let Some(piece) = pieces.next() {
        // At least one character.
        let least = rest.chars().next()?.len_utf8();
        let end = if pieces.peek().is_none() {
            rest.strip_suffix(piece).map(str::len).filter(|&end| end >= least)?
        } else {
            least + rest[least..].find(piece)?
        };
        texts.push(&rest[..end]);
        rest = &rest[end + piece.len()..];
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(lines: &str, names: &[&str]) -> Result<Vec<String>, String> {
        let names = names.iter().map(|&name| (name.to_owned(), name.to_owned())).collect();
        let renamed = Names::parse("names.toml".into(), lines).and_then(|lines| lines.rename(names));
        renamed
            .map(|names| names.into_iter().map(|(new, old)| format!("{old} → {new}")).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn names_are_exchanged_left_out_and_kept() {
        let lines = r#"
            "enc*.conv*.weight" = "encoder*.c*.weight"
            "enc1.conv2.weight" = "last"
            "net.*" = "*"
            "aux.*" = ""
        "#;
        let names = ["enc0.conv1.weight", "enc1.conv2.weight", "net.a.b", "aux.x", "other"];
        assert_eq!(
            renamed(lines, &names).unwrap(),
            ["net.a.b → a.b", "enc0.conv1.weight → encoder0.c1.weight", "enc1.conv2.weight → last", "other → other"]
        );
    }

    #[test]
    fn a_star_is_at_least_one_character_and_ends_where_what_follows_begins() {
        assert_eq!(captured("a*", "a"), None);
        assert_eq!(captured("*.w", ".w"), None);
        assert_eq!(captured("a", "a"), None);
        assert_eq!(captured("a*.*", "a1.b.c"), Some(vec!["1", "b.c"]));
        assert_eq!(captured("*a*a", "äaaa"), Some(vec!["ä", "a"]));
        assert_eq!(captured("**", "ßx"), Some(vec!["ß", "x"]));
        assert_eq!(captured("*b", "ab.c"), None);
    }

    #[test]
    fn what_is_no_file_of_names_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let message = Names::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("not a regular file"), "{message}");
        let large = folder.path().join("large.toml");
        std::fs::write(&large, vec![b'#'; LARGEST_FILE_BYTES as usize + 1]).unwrap();
        let message = Names::read(&large).unwrap_err().to_string();
        assert!(message.contains("too large") && message.contains("large.toml"), "{message}");
    }

    #[test]
    fn lines_that_make_no_sense_are_refused_by_name() {
        for (lines, part) in [
            ("\"a\" = 3", "expected lines"),
            ("\"a*\" = \"b\"", "not as many *"),
            ("\"wieght\" = \"b\"", "\"wieght\" is no tensor of the file; the most like it is `weight`"),
            ("\"bias\" = \"weight\"", "`bias` and `weight` are both called `weight`"),
            ("\"b*\" = \"x*\"\n\"*s\" = \"y*\"", "`bias` fits both"),
        ] {
            let message = renamed(lines, &["weight", "bias"]).unwrap_err();
            assert!(message.contains(part) && message.contains("names.toml"), "{lines}: {message}");
        }
    }
}
