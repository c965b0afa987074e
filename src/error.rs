//! The one error type, with variants by what the user can do about it.

use std::io;
use std::path::PathBuf;

use crate::data::Finding;

/// Everything that can go wrong, named after who can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A flag, a configuration value or an argument makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A graph cannot be built: an op was given shapes, types or settings it does not accept.
    #[error("{op} `{node}`: {problem}")]
    Graph {
        /// Name of the op, such as `conv2d`.
        op: String,
        /// Name of the node, such as `down1.conv1`.
        node: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A file or folder of images, labels or settings is not what it should be.
    #[error("{}: {problem}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// An image or label file, or a folder of them, is not what it should be.
    #[error("{0}")]
    Finding(Box<Finding>),
    /// A weights file is damaged, foreign, or belongs to another network.
    #[error("{}: {problem}", path.display())]
    Weights {
        /// The weights file.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// Reading or writing failed in the operating system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// No device fits, or the device failed.
    #[error("{0}")]
    Device(String),
    /// The plan needs more memory than there is.
    #[error("{0}")]
    Memory(String),
    /// The loss is no longer finite.
    #[error("{0}")]
    Diverged(String),
    /// The user, or a callback of the host, asked to stop; what training did so far is saved.
    #[error("interrupted")]
    Interrupted,
}

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Shorthand for an [`Error::Io`].
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// Shorthand for an [`Error::Data`].
    pub fn data(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Data { path: path.into(), problem: problem.into() }
    }

    /// The exit code of the program for this error: 2 usage, 3 data or weights, 4 device, 5 memory, 6 input/output,
    /// 7 diverged, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Graph { .. } => 2,
            Self::Data { .. } | Self::Finding(_) | Self::Weights { .. } => 3,
            Self::Device(_) => 4,
            Self::Memory(_) => 5,
            Self::Io { .. } => 6,
            Self::Diverged(_) => 7,
            Self::Interrupted => 130,
        }
    }
}
