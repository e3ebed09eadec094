//! Finds instances by their service's name, and tells when they change.
//!
//! Owns what is known of each service, and answers from it. The watching is [`watcher`](crate::etcd::watcher)'s, and the
//! task that folds it into lists stands in `follow`. Must not know how an instance is chosen or called.
//!
//! A service is listed once and then watched: an event costs what it holds, not another reading of the prefix. While
//! etcd is away the last list is the answer, and [`ServiceView::away`] says so. Reading what is known takes no lock.

mod follow;
mod guard;
mod services;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use rollcall_shared::{KeyPrefix, Layout, ServiceInstance};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::guard::LossGuard;
use self::services::{Service, Services};
use crate::{
    backoff::later,
    etcd::{connect::Connection, source::EtcdSource},
};

/// How many services a discovery with [`Scope::Asked`] watches at once. Each has a watch of its own.
pub const SERVICES_WATCHED_MAX: usize = 1_000;

/// How long a service that nobody asks for and nobody watches is still watched, at the most twice as long.
pub const IDLE: Duration = Duration::from_mins(5);

/// How long the first list of a service is waited for, unless configured otherwise.
pub const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// The instances of one service, sorted by key: those whose values decode and say that very name.
pub type Instances = Arc<[Arc<ServiceInstance>]>;

/// What is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each service once it is asked for, by a watch of its own: what fits a program that calls a few services.
    #[default]
    Asked,
    /// Everything below the prefix, by one watch: what fits a gateway, which may call any service.
    All,
}

/// How services are found.
#[derive(Debug, Clone, PartialEq)]
pub struct DiscoveryConfig {
    /// How values are read.
    pub layout: Layout,
    /// Below which prefix.
    pub prefix: KeyPrefix,
    /// What is watched.
    pub scope: Scope,
    /// How long [`Discovery::get_service`] waits for the first list of a service while etcd cannot be asked. With zero
    /// the first failure is the answer.
    pub first_list_timeout: Duration,
    /// Whether the loss of most instances at once is held back.
    pub loss_guard: Option<LossGuard>,
}

impl DiscoveryConfig {
    /// Services in `layout` below `prefix`, each watched once it is asked for, every loss believed.
    pub fn new(layout: Layout, prefix: KeyPrefix) -> Self {
        Self { layout, prefix, scope: Scope::Asked, first_list_timeout: FIRST_LIST_TIMEOUT, loss_guard: None }
    }
}

/// Why a service cannot be told of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// No service has such a name.
    #[error("{0:?} is no name of a service: one holds at least one character, and none that are control characters")]
    BadName(String),
    /// More services would be watched than [`SERVICES_WATCHED_MAX`].
    #[error("{SERVICES_WATCHED_MAX} services are watched already: who asks for that many had better watch all at once")]
    TooMany,
    /// The service's first list could not be read.
    #[error("the instances of {service} are not known yet: {why}")]
    NotKnownYet {
        /// The service asked for.
        service: String,
        /// What is in the way.
        why: Arc<str>,
    },
    /// The watcher was stopped, or the discovery was closed.
    #[error("discovery has stopped")]
    Stopped,
}

/// Since when etcd cannot be followed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Since when.
    pub since: Instant,
    /// What went wrong last.
    pub why: Arc<str>,
}

/// What is known of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Whether it was ever listed.
    pub known: bool,
    /// Its instances, as far as they are known.
    pub instances: Instances,
    /// How many of them etcd no longer has: a [`LossGuard`] holds their loss back.
    pub held_back: usize,
    /// Where etcd cannot be followed now: the list is the last that was good.
    pub away: Option<Away>,
}

impl Default for ServiceView {
    /// Nothing is known.
    fn default() -> Self {
        Self { known: false, instances: Arc::from([]), held_back: 0, away: None }
    }
}

/// Finds services of one layout below one prefix; cheap to clone. What it watches ends with its last clone and its last
/// [`Watcher`].
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Discovery").field("config", &self.shared.state.config).finish_non_exhaustive()
    }
}

/// What ends with the last handle.
struct Shared {
    connection: Connection,
    state: Arc<State>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// Where the tasks run: that of who made it, not of who happens to ask first.
    runtime: Handle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// What the tasks share with the handles.
struct State {
    config: DiscoveryConfig,
    services: Services,
    /// With [`Scope::All`]: how it is with the one watch, also before any service is known.
    whole: watch::Sender<ServiceView>,
    cancel: CancellationToken,
}

impl Discovery {
    /// A discovery over `connection`. With [`Scope::All`] it begins to watch at once. Must be called within a tokio
    /// runtime.
    pub fn new(connection: Connection, config: DiscoveryConfig) -> Self {
        let cancel = CancellationToken::new();
        let state = Arc::new(State {
            services: Services::new(config.scope == Scope::Asked),
            config,
            whole: watch::channel(ServiceView::default()).0,
            cancel: cancel.child_token(),
        });
        let shared = Shared { connection, state, tasks: TaskTracker::new(), cancel, runtime: Handle::current() };
        if shared.state.config.scope == Scope::All {
            let source = shared.source(shared.state.config.prefix.clone());
            shared.tasks.spawn_on(follow::everything(source, Arc::clone(&shared.state)), &shared.runtime);
        }
        Self { shared: Arc::new(shared) }
    }

    /// The instances of `name` that live now, from memory once they are known. The first time they are read from etcd,
    /// which is waited for as long as [`DiscoveryConfig::first_list_timeout`] says. A service without instances is an
    /// empty list, as in go-kratos.
    ///
    /// # Errors
    /// [`DiscoverError::NotKnownYet`] where etcd could not be asked for the first list; [`DiscoverError::BadName`] and
    /// [`DiscoverError::TooMany`]; [`DiscoverError::Stopped`] after [`Self::close`].
    #[inline]
    pub fn get_service<'a>(&'a self, name: &'a str) -> GetService<'a> {
        GetService { discovery: self, name, asking: None }
    }

    /// The instances of `name`, where they are known. It neither waits nor begins to watch; where nothing is known it is
    /// [`Self::get_service`] that asks.
    #[inline]
    pub fn known(&self, name: &str) -> Option<Instances> {
        self.shared.state.services.known(name)
    }

    async fn first_list(&self, name: &str) -> Result<Instances, DiscoverError> {
        let state = &self.shared.state;
        check_name(name)?;
        if state.config.scope == Scope::Asked {
            return self.once_known(name, self.subscribe(name)?).await.map(|view| view.instances);
        }
        if state.cancel.is_cancelled() {
            return Err(DiscoverError::Stopped);
        }
        // A name that nothing is registered as leaves nothing behind.
        self.once_known(name, state.whole.subscribe()).await?;
        Ok(self.known(name).unwrap_or_else(|| Arc::from([])))
    }

    /// Waits until something is known.
    async fn once_known(
        &self,
        name: &str,
        mut view: watch::Receiver<ServiceView>,
    ) -> Result<ServiceView, DiscoverError> {
        let patience = self.shared.state.config.first_list_timeout;
        let deadline = later(Instant::now(), patience);
        let why = loop {
            let seen = view.borrow_and_update().clone();
            if seen.known {
                return Ok(seen);
            }
            // A failure ends the wait only when it is over: etcd may be on its way back.
            match (timeout_at(deadline, view.changed()).await, seen.away) {
                (Ok(Ok(())), _) => {}
                (Ok(Err(_)), _) => return Err(DiscoverError::Stopped),
                (Err(_), Some(away)) => break away.why,
                // No time to wait, and nothing has failed: the first word is the answer.
                (Err(_), None) if patience.is_zero() => view.changed().await.map_err(|_| DiscoverError::Stopped)?,
                (Err(_), None) => break "etcd has not answered".into(),
            }
        };
        Err(DiscoverError::NotKnownYet { service: name.to_owned(), why })
    }

    /// Watches `name`: the full list first, then the full list at every change.
    ///
    /// # Errors
    /// [`DiscoverError::BadName`], [`DiscoverError::TooMany`] and [`DiscoverError::Stopped`].
    pub fn watch(&self, name: &str) -> Result<Watcher, DiscoverError> {
        Ok(Watcher {
            view: self.subscribe(name)?,
            last: None,
            stopped: CancellationToken::new(),
            discovery: self.clone(),
        })
    }

    /// What is known of `name`, to be waited on for every change of it, also of [`ServiceView::away`]. The service stays
    /// watched while the receiver and this discovery live.
    ///
    /// # Errors
    /// As [`Self::watch`].
    pub fn subscribe(&self, name: &str) -> Result<watch::Receiver<ServiceView>, DiscoverError> {
        let Shared { state, tasks, runtime, .. } = &*self.shared;
        if state.cancel.is_cancelled() {
            return Err(DiscoverError::Stopped);
        }
        check_name(name)?;
        let writing = state.services.write();
        if let Some(service) = state.services.get(name) {
            service.note_asked();
            return Ok(service.view().subscribe());
        }
        if state.services.len() >= SERVICES_WATCHED_MAX && state.config.scope == Scope::Asked {
            return Err(DiscoverError::TooMany);
        }
        let service = Arc::new(Service::new());
        let view = service.view().subscribe();
        if state.config.scope == Scope::All {
            for (name, _) in state.services.all().into_iter().filter(|(_, service)| service.is_idle()) {
                writing.remove(&name);
            }
        }
        writing.insert(name, Arc::clone(&service));
        if state.config.scope == Scope::All {
            // Nothing of it is in etcd yet, as far as that is known.
            let nothing = ServiceView { instances: Arc::from([]), ..state.whole.borrow().clone() };
            writing.tell(name, &service, nothing);
        }
        drop(writing);
        if state.config.scope == Scope::Asked {
            let config = &state.config;
            let prefix = config.layout.service_prefix(&config.prefix, name).unwrap_or_else(|| config.prefix.clone());
            let source = self.shared.source(prefix);
            tasks.spawn_on(follow::one(source, Arc::clone(state), name.to_owned(), service), runtime);
        }
        Ok(view)
    }

    /// The names of the services that have instances now, sorted. With [`Scope::Asked`] only of those asked for.
    pub fn services(&self) -> Vec<String> {
        let services = self.shared.state.services.all();
        let lives = |service: &Service| !service.view().borrow().instances.is_empty();
        let mut names: Vec<String> =
            services.iter().filter(|(_, service)| lives(service)).map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Ends all watching, for every clone, and waits until it has ended. Answers stay what they were, and
    /// [`ServiceView::away`] says that nothing is watched any more.
    pub async fn close(&self) {
        self.shared.cancel.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

fn check_name(name: &str) -> Result<(), DiscoverError> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(DiscoverError::BadName(name.to_owned()));
    }
    Ok(())
}

impl Shared {
    fn source(&self, prefix: KeyPrefix) -> EtcdSource {
        EtcdSource::new(self.connection.clone(), prefix, &[])
    }
}

impl State {
    /// Lets a service go that nobody asked for since the last time this was asked, and that nobody watches.
    fn let_go(&self, name: &str, service: &Service) -> bool {
        let writing = self.services.write();
        if service.was_asked() || service.view().receiver_count() > 0 {
            return false;
        }
        writing.remove(name);
        true
    }
}

/// What [`Discovery::get_service`] is waited for by. What is known is answered without a state machine of its own, which
/// would cost as much again as looking it up.
pub struct GetService<'a> {
    discovery: &'a Discovery,
    name: &'a str,
    asking: Option<Asking<'a>>,
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Instances, DiscoverError>> + Send + 'a>>;

impl fmt::Debug for GetService<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("GetService").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Future for GetService<'_> {
    type Output = Result<Instances, DiscoverError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { discovery, name, asking } = &mut *self;
        if asking.is_none()
            && let Some(instances) = discovery.known(name)
        {
            return Poll::Ready(Ok(instances));
        }
        asking.get_or_insert_with(|| Box::pin(discovery.first_list(name))).as_mut().poll(context)
    }
}

/// Watches one service, as go-kratos' `registry.Watcher` does. Dropping it stops it.
pub struct Watcher {
    view: watch::Receiver<ServiceView>,
    last: Option<Instances>,
    stopped: CancellationToken,
    discovery: Discovery,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Watcher").field("view", &*self.view.borrow()).finish_non_exhaustive()
    }
}

impl Watcher {
    /// The full list of instances: at first as soon as it is known, then at every change. Changes that come faster than
    /// they are asked for are told together. While etcd is away it waits: [`Self::view`] says that it is. Cancel safe.
    ///
    /// # Errors
    /// [`DiscoverError::Stopped`] once it was stopped.
    pub async fn next(&mut self) -> Result<Instances, DiscoverError> {
        loop {
            if self.stopped.is_cancelled() {
                return Err(DiscoverError::Stopped);
            }
            {
                let view = self.view.borrow_and_update();
                if view.known && self.last.as_ref().is_none_or(|last| **last != *view.instances) {
                    self.last = Some(Arc::clone(&view.instances));
                    return Ok(Arc::clone(&view.instances));
                }
            }
            tokio::select! {
                () = self.stopped.cancelled() => {}
                () = self.discovery.shared.cancel.cancelled() => return Err(DiscoverError::Stopped),
                changed = self.view.changed() => changed.map_err(|_| DiscoverError::Stopped)?,
            }
        }
    }

    /// What is known now, also where etcd is away.
    pub fn view(&self) -> ServiceView {
        self.view.borrow().clone()
    }

    /// Stops it: [`Self::next`], also one that is being waited for, ends with [`DiscoverError::Stopped`].
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    /// The same lists as a stream, which ends once it was stopped.
    pub fn into_stream(self) -> impl Stream<Item = Instances> {
        stream::unfold(self, async |mut watcher| Some((watcher.next().await.ok()?, watcher)))
    }

    /// What stops it from elsewhere, while [`Self::next`] is waited for.
    pub fn stopper(&self) -> CancellationToken {
        self.stopped.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::connect::ConnectConfig;

    /// A discovery whose etcd is nowhere.
    fn discovery(scope: Scope) -> Discovery {
        let config = ConnectConfig { endpoints: vec!["127.0.0.1:1".into()], ..ConnectConfig::default() };
        let prefix = KeyPrefix::new("/microservices").unwrap();
        let connection = Connection::new(config).unwrap();
        Discovery::new(connection, DiscoveryConfig { scope, ..DiscoveryConfig::new(Layout::Kratos, prefix) })
    }

    fn watched(discovery: &Discovery) -> Vec<String> {
        let services = discovery.shared.state.services.all();
        let mut names: Vec<_> = services.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_nobody_asks_for_any_more_is_let_go() {
        let discovery = discovery(Scope::Asked);
        let _kept = discovery.watch("kept").unwrap();
        drop(discovery.watch("asked-once").unwrap());
        assert!(discovery.get_service("asked-in-vain").await.is_err());
        assert_eq!(watched(&discovery), ["asked-in-vain", "asked-once", "kept"]);
        tokio::time::sleep(IDLE).await;
        drop(discovery.subscribe("asked-once").unwrap());
        tokio::time::sleep(IDLE + IDLE / 2).await;
        assert_eq!(watched(&discovery), ["asked-once", "kept"], "asked for within the last minutes");
        tokio::time::sleep(2 * IDLE).await;
        assert_eq!(watched(&discovery), ["kept"]);
        assert_eq!(discovery.shared.tasks.len(), 1, "the others' tasks have ended");
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_nothing_is_registered_as_leave_nothing_behind() {
        let discovery = discovery(Scope::All);
        discovery.shared.state.whole.send_replace(ServiceView { known: true, ..ServiceView::default() });
        for number in 0..100 {
            assert!(discovery.get_service(&number.to_string()).await.unwrap().is_empty());
            drop(discovery.watch(&number.to_string()).unwrap());
        }
        let _kept = discovery.watch("kept").unwrap();
        assert_eq!(watched(&discovery), ["kept"]);
    }

    #[tokio::test]
    async fn closing_ends_who_waits_and_says_that_lists_are_old() {
        let discovery = discovery(Scope::Asked);
        let mut watcher = discovery.watch("orders").unwrap();
        let view = discovery.subscribe("orders").unwrap();
        let (next, ()) = tokio::join!(watcher.next(), discovery.close());
        assert_eq!(next, Err(DiscoverError::Stopped));
        assert_eq!(&*view.borrow().away.as_ref().unwrap().why, "etcd is followed no more");
        assert_eq!(discovery.get_service("others").await, Err(DiscoverError::Stopped));
    }

    #[test]
    fn it_is_followed_where_it_was_made_and_its_end_is_told() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let discovery = runtime.block_on(async { discovery(Scope::Asked) });
        let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let view = elsewhere.block_on(async { discovery.subscribe("orders").unwrap() });
        drop(elsewhere);
        assert_eq!(discovery.shared.tasks.len(), 1);
        runtime.shutdown_timeout(Duration::from_secs(5));
        assert_eq!(&*view.borrow().away.as_ref().unwrap().why, "etcd is followed no more");
        assert!(watched(&discovery).is_empty());
    }

    #[tokio::test]
    async fn patience_without_end_is_no_reason_to_panic() {
        let config = ConnectConfig { endpoints: vec!["127.0.0.1:1".into()], ..ConnectConfig::default() };
        let prefix = KeyPrefix::new("/microservices").unwrap();
        let config_of =
            DiscoveryConfig { first_list_timeout: Duration::MAX, ..DiscoveryConfig::new(Layout::Kratos, prefix) };
        let discovery = Discovery::new(Connection::new(config).unwrap(), config_of);
        let waiting = tokio::time::timeout(Duration::from_millis(50), discovery.get_service("orders")).await;
        assert!(waiting.is_err(), "it is waited for");
    }

    #[tokio::test]
    async fn the_tasks_end_with_the_last_handle() {
        let discovery = discovery(Scope::All);
        let tasks = discovery.shared.tasks.clone();
        let watcher = discovery.watch("orders").unwrap();
        drop(discovery);
        assert_eq!(tasks.len(), 1, "a watcher is a handle too");
        drop(watcher);
        tasks.close();
        tasks.wait().await;
    }
}
