//! The registration of a program that comes and goes: it stands while the program is well, until the end.
//!
//! Owns: the one [`Registration`], and what is said of it. Must not know: what the program is, nor why it is to end.

use std::{sync::Arc, time::Duration};

use rollcall_registry::{Registrar, Registration, RegistrationState};
use rollcall_shared::ServiceInstance;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{address, notify::Manager};

/// How long deregistering may take. What is not removed by then runs out with its lease.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often this host's address is looked for where it has none.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What is registered, and for how long.
pub struct Presence {
    /// Who registers.
    pub registrar: Registrar,
    /// The instance at this host.
    pub instance: Box<dyn Fn(&str) -> ServiceInstance + Send + Sync>,
    /// This host's name or address; `None` where it is the address by which `etcd` is reached.
    pub host: Option<String>,
    /// The members of the cluster, as they were given.
    pub etcd: Vec<String>,
    /// Whether the program is well.
    pub well: watch::Receiver<bool>,
    /// Told how it goes.
    pub manager: Manager,
}

impl Presence {
    /// Keeps the instance registered while it is well, until `ending`. Answers whether it was registered then, so that
    /// callers may still be on their way.
    pub async fn hold(mut self, ending: CancellationToken) -> bool {
        ending.run_until_cancelled(self.first_well()).await;
        loop {
            let Some(Some(registration)) = ending.run_until_cancelled(self.register()).await else {
                ending.cancelled().await;
                return false;
            };
            let state = registration.state();
            let ended = tokio::select! {
                () = ending.cancelled() => true,
                _ = self.well.wait_for(|well| !well) => false,
                () = tell(registration.key(), state.clone(), &self.manager) => false,
            };
            let stood = !matches!(*state.borrow(), RegistrationState::Lost { .. });
            leave(registration, stood).await;
            if ended {
                return stood;
            }
            self.manager.status("not registered: the program does not answer");
        }
    }

    /// What was started runs, whether or not etcd is there to hear of it.
    async fn first_well(&mut self) {
        self.manager.status("not registered before its check passes");
        if self.well.wait_for(|well| *well).await.is_ok() {
            self.manager.ready();
        }
    }

    /// Begins to register once the program is well and this host's address is known.
    async fn register(&mut self) -> Option<Registration> {
        self.well.wait_for(|well| *well).await.ok()?;
        self.manager.status("registering");
        let host = match &self.host {
            Some(host) => host.clone(),
            // Asked anew each time: hosts move.
            None => address_towards(&self.etcd).await,
        };
        self.registrar
            .register_eventually(&(self.instance)(&host))
            .inspect_err(|error| tracing::error!(%error, "this cannot be registered"))
            .ok()
    }
}

/// This host's address, as soon as there is a way to etcd.
async fn address_towards(etcd: &[String]) -> String {
    let mut said = String::new();
    loop {
        let why = match address::this_host(etcd).await {
            Ok(address) => {
                let host = address::in_url(address);
                tracing::info!(host, "this host's address, by which it reaches etcd");
                return host;
            }
            Err(error) => error.to_string(),
        };
        if why != said {
            tracing::warn!(why, "not registered for now; it goes on being tried, or say --host");
            said = why;
        }
        sleep(ADDRESS_INTERVAL).await;
    }
}

/// Says when the key stands, and what is in the way of it, once for each reason. Never ends.
async fn tell(key: &str, mut state: watch::Receiver<RegistrationState>, manager: &Manager) {
    let mut said: Arc<str> = "".into();
    // Whether it was said last that the key does not stand.
    let mut lost = false;
    while state.changed().await.is_ok() {
        match &*state.borrow_and_update() {
            RegistrationState::Retrying { why, .. } if *why != said => {
                tracing::warn!(key, why = &**why, "registered until its lease is over, which is not renewed for now");
                manager.status(&format!(
                    "registered as {key} until its lease is over, which is not renewed for now: {why}"
                ));
                said = Arc::clone(why);
            }
            RegistrationState::Lost { why, .. } if !lost || *why != said => {
                lost = true;
                tracing::warn!(key, why = &**why, "not registered for now; it goes on being tried");
                manager.status(&format!("not registered for now: {why}"));
                said = Arc::clone(why);
            }
            RegistrationState::Alive => {
                tracing::info!(key, "registered");
                manager.status(&format!("registered as {key}"));
                (said, lost) = ("".into(), false);
            }
            RegistrationState::Retrying { .. } | RegistrationState::Lost { .. } | RegistrationState::Ended => {}
        }
    }
    std::future::pending::<()>().await;
}

/// Deletes the key, as a framework does whose program stops by itself. The lease then runs out.
async fn leave(registration: Registration, stood: bool) {
    let key = registration.key().to_owned();
    match timeout(LEAVE_TIMEOUT, registration.withdraw()).await {
        Ok(Ok(())) if !stood => tracing::debug!(key, "it was not registered"),
        Ok(Ok(())) => tracing::info!(key, "deregistered"),
        Ok(Err(error)) => tracing::warn!(key, %error, "not deregistered; the key runs out with its lease"),
        Err(_) => tracing::warn!(key, "etcd does not answer; the key runs out with its lease"),
    }
}
