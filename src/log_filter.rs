//! The log filter, which operators can change while the process runs.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use crate::audit;
use crate::config;

/// Changes the filter of the running process. Clones change the same filter.
#[derive(Clone, Default)]
pub struct LogFilter(Option<Arc<dyn FilterHandle>>);

/// Why the filter was not changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFilterError {
    /// The text is no filter.
    #[error("expected {0}")]
    Invalid(String),
    /// The process logs in another way.
    #[error("the log of this process has no filter that can be changed")]
    Unavailable,
}

trait FilterHandle: Send + Sync {
    fn current(&self) -> Option<Targets>;
    fn replace(&self, filter: Targets) -> bool;
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> FilterHandle for reload::Handle<Targets, S> {
    fn current(&self) -> Option<Targets> {
        self.clone_current()
    }

    fn replace(&self, filter: Targets) -> bool {
        self.reload(filter).is_ok()
    }
}

impl LogFilter {
    /// Changes the filter behind `handle`.
    pub fn new<S: tracing::Subscriber + for<'a> LookupSpan<'a>>(handle: reload::Handle<Targets, S>) -> Self {
        Self(Some(Arc::new(handle)))
    }

    /// The current filter as text.
    ///
    /// # Errors
    /// [`LogFilterError::Unavailable`].
    pub fn current(&self) -> Result<String, LogFilterError> {
        let current = self.0.as_ref().and_then(|handle| handle.current());
        current.map(|filter| filter.to_string()).ok_or(LogFilterError::Unavailable)
    }

    /// Replaces the filter for a client at `address`. Returns it as text, with warnings about targets that do not exist and
    /// about an audit log that is off from now on.
    ///
    /// # Errors
    /// [`LogFilterError`]; the filter is unchanged.
    pub fn set(&self, text: &str, address: IpAddr) -> Result<(String, Vec<String>), LogFilterError> {
        let handle = self.0.as_ref().ok_or(LogFilterError::Unavailable)?;
        let (filter, mut warnings) = config::log_filter(text.trim()).map_err(LogFilterError::Invalid)?;
        if !filter.would_enable(audit::TARGET, &Level::INFO) {
            warnings.push(format!("the audit log is off: add {}=info", audit::TARGET));
        }
        let shown = filter.to_string();
        let audit = || tracing::warn!(target: audit::TARGET, %address, filter = shown, "changing the log filter");
        // Before the change, because the new filter may suppress the line.
        let is_logged = tracing::enabled!(target: audit::TARGET, Level::WARN);
        audit();
        if !handle.replace(filter) {
            return Err(LogFilterError::Unavailable);
        }
        if !is_logged {
            audit();
        }
        Ok((shown, warnings))
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_filter_changes_at_once_and_an_invalid_one_changes_nothing() {
        let (layer, handle) = reload::Layer::new(config::log_filter("info").unwrap().0);
        let filter = LogFilter::new(handle);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(target: "millpond", Level::DEBUG));
            let address = IpAddr::from([127, 0, 0, 1]);
            let (shown, warnings) = filter.set(" info,millpond=debug\n", address).unwrap();
            assert!(shown.contains("millpond=debug") && warnings.is_empty(), "{shown} {warnings:?}");
            assert!(tracing::enabled!(target: "millpond", Level::DEBUG));
            for invalid in
                ["no such level", "", " ", "=", "info,=debug", "info,\u{1b}[31mevil=debug", "info,\u{9b}=debug"]
            {
                assert!(matches!(filter.set(invalid, address), Err(LogFilterError::Invalid(_))), "{invalid:?}");
            }
            assert_eq!(filter.current().unwrap(), shown);
            let (_, warnings) = filter.set("error", address).unwrap();
            assert!(warnings.concat().contains("millpond::audit=info"), "{warnings:?}");
        });
        assert_eq!(LogFilter::default().current(), Err(LogFilterError::Unavailable));
    }
}
