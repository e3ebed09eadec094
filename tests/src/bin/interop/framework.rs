//! The frameworks of the matrix: what each is, where it writes, and what WIRE's table says becomes of its instances.
//! Knows nothing of processes or of etcd.

use std::collections::BTreeMap;

use rollcall_shared::{Layout, ServiceInstance};
use serde_json::{Value, json};

/// What a call goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// `GET /helloworld/{name}`, answered with JSON.
    Http,
    /// `helloworld.Greeter/SayHello`.
    Grpc,
    /// go-micro's own: a POST whose headers name the endpoint.
    Mucp,
}

impl Over {
    /// As the programs' `--over` and the table name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Mucp => "mucp",
        }
    }
}

/// How a program takes its key away when it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It deletes the key; the lease runs out.
    Deletes,
    /// It revokes the lease.
    Revokes,
}

/// What a program does once its key is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing, or nothing until its lease is lost.
    StaysAway,
    /// It writes a key again within so many seconds.
    Back(u64),
}

/// What an outage of etcd leaves of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// The key stands, or stands again.
    Survives,
    /// The key is gone for good.
    Lost,
}

/// What WIRE's table says.
#[derive(Debug, Clone, Copy)]
pub struct Fates {
    /// On SIGTERM.
    pub stop: Stop,
    /// The lease's TTL, in seconds.
    pub ttl_s: i64,
    /// The key is deleted while the lease lives.
    pub deleted: Then,
    /// The lease is revoked.
    pub revoked: Then,
    /// etcd is away for longer than any TTL here.
    pub away: Outage,
}

/// One row of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Framework {
    /// The name on the command line and of its program.
    pub name: &'static str,
    /// The name and version in the table.
    pub title: &'static str,
    /// How it writes.
    pub layout: Layout,
    /// Below which prefix.
    pub prefix: &'static str,
    /// What its services are called over.
    pub overs: &'static [Over],
    /// Whether the codec models all it writes: then encoding what was decoded gives the same value.
    pub whole: bool,
    /// The `:authority` its gRPC callers must be told, since what they make of a target by themselves is refused.
    pub authority: Option<&'static str>,
    /// How long after a departure its callers may still pick who left, in seconds, by its own design.
    pub drain_s: u64,
    /// What becomes of its instances.
    pub fates: Fates,
}

const KRATOS: Fates =
    Fates { stop: Stop::Deletes, ttl_s: 15, deleted: Then::StaysAway, revoked: Then::Back(5), away: Outage::Lost };

const MICRO: Fates =
    Fates { stop: Stop::Deletes, ttl_s: 60, deleted: Then::StaysAway, revoked: Then::Back(30), away: Outage::Survives };

const NEVER_BACK: Fates =
    Fates { stop: Stop::Deletes, ttl_s: 10, deleted: Then::StaysAway, revoked: Then::StaysAway, away: Outage::Lost };

/// What gRPC callers are told to send where what they make of a name by themselves is refused.
pub const AUTHORITY: &str = "helloworld";

/// Every framework, in the order of the table.
pub const FRAMEWORKS: [Framework; 9] = [
    Framework {
        name: "kratos",
        title: "go-kratos v2.9.2",
        layout: Layout::Kratos,
        prefix: "/microservices/",
        overs: &[Over::Http, Over::Grpc],
        whole: true,
        authority: None,
        drain_s: 1,
        fates: KRATOS,
    },
    Framework {
        name: "kratos3",
        title: "go-kratos v3.0.0 ¹",
        layout: Layout::Kratos,
        prefix: "/microservices/",
        overs: &[Over::Http, Over::Grpc],
        whole: true,
        authority: None,
        drain_s: 1,
        fates: KRATOS,
    },
    Framework {
        name: "gomicro5",
        title: "go-micro v5.30.0",
        layout: Layout::GoMicro,
        prefix: "/micro/registry/",
        overs: &[Over::Mucp],
        whole: false,
        authority: None,
        drain_s: 1,
        fates: Fates { revoked: Then::Back(50), ..MICRO },
    },
    Framework {
        name: "gomicro2",
        title: "go-micro v2.9.1",
        layout: Layout::GoMicro,
        prefix: "/micro/registry/",
        overs: &[Over::Grpc],
        whole: false,
        authority: None,
        drain_s: 1,
        fates: MICRO,
    },
    Framework {
        name: "gokit",
        title: "go-kit v0.13.0",
        layout: Layout::GoKit,
        prefix: "/services/",
        overs: &[Over::Http],
        whole: true,
        authority: None,
        drain_s: 1,
        fates: NEVER_BACK,
    },
    Framework {
        name: "naming",
        title: "etcd naming v3.6.10",
        layout: Layout::Grpc,
        prefix: "naming/",
        overs: &[Over::Grpc],
        whole: true,
        // A target with a `/` becomes an authority with `%2F`.
        authority: Some(AUTHORITY),
        drain_s: 1,
        fates: NEVER_BACK,
    },
    Framework {
        name: "gozero",
        title: "go-zero v1.10.3",
        layout: Layout::GoZero,
        prefix: "gozero/",
        overs: &[Over::Grpc],
        whole: true,
        authority: None,
        drain_s: 1,
        fates: Fates {
            stop: Stop::Revokes,
            ttl_s: 10,
            deleted: Then::Back(2),
            revoked: Then::Back(6),
            away: Outage::Survives,
        },
    },
    Framework {
        name: "kitex",
        title: "kitex v0.15.1",
        layout: Layout::Kitex,
        prefix: "kitex/registry-etcd/",
        overs: &[Over::Grpc],
        whole: true,
        authority: None,
        // Its resolver asks again every 5 s.
        drain_s: 6,
        fates: Fates {
            stop: Stop::Deletes,
            ttl_s: 60,
            deleted: Then::Back(31),
            revoked: Then::Back(31),
            away: Outage::Lost,
        },
    },
    Framework {
        name: "hertz",
        title: "hertz v0.10.4",
        layout: Layout::Hertz,
        prefix: "hertz/registry-etcd/",
        overs: &[Over::Http],
        whole: true,
        authority: None,
        drain_s: 6,
        fates: Fates { ttl_s: 60, ..NEVER_BACK },
    },
];

/// Our own registrar, beside them: in kratos' layout, with its TTL. It is no row of what meets.
pub const OURS: Framework = Framework {
    name: "ours",
    title: "**Rollcall**, kratos layout",
    layout: Layout::Kratos,
    prefix: "/microservices/",
    overs: &[Over::Http, Over::Grpc],
    whole: true,
    authority: None,
    drain_s: 1,
    fates: Fates {
        stop: Stop::Deletes,
        ttl_s: 15,
        deleted: Then::StaysAway,
        revoked: Then::Back(5),
        away: Outage::Survives,
    },
};

/// What every program here says of itself where its framework has a place for it.
const ZONE: (&str, &str) = ("zone", "a<b>&c");

/// How an instance of ours may be reached.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// `host:port`.
    pub http: String,
    /// `host:port`.
    pub grpc: String,
}

impl Framework {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        FRAMEWORKS.into_iter().chain([OURS]).find(|framework| framework.name == name)
    }

    /// How its own programs name the service that we find as `service`.
    pub fn their_name(&self, service: &str) -> String {
        match self.layout {
            // Their name is the key up to its last segment.
            Layout::Grpc | Layout::GoZero => format!("{}{service}", self.prefix),
            _ => service.to_owned(),
        }
    }

    /// The beginning of the keys of `service`.
    pub fn keys_of(&self, service: &str) -> String {
        format!("{}{service}/", self.prefix)
    }

    /// An instance of ours, as this framework's own program would say it.
    pub fn ours(&self, service: &str, id: &str, at: &Addresses) -> ServiceInstance {
        let carries = self.layout.carries();
        let mut metadata = BTreeMap::new();
        if carries.metadata {
            metadata.insert(ZONE.0.to_owned(), ZONE.1.to_owned());
        }
        if self.layout == Layout::GoMicro {
            for (name, value) in [
                ("broker", "http"),
                ("protocol", "grpc"),
                ("registry", "etcd"),
                ("server", "grpc"),
                ("transport", "grpc"),
            ] {
                metadata.insert(name.to_owned(), value.to_owned());
            }
        }
        let endpoints = match (self.layout, self.overs) {
            (Layout::Kratos, _) => vec![format!("http://{}", at.http), format!("grpc://{}", at.grpc)],
            (Layout::GoKit, _) => vec![format!("http://{}", at.http)],
            (_, [Over::Http]) => vec![at.http.clone()],
            _ => vec![at.grpc.clone()],
        };
        ServiceInstance {
            id: if carries.id_is_address { endpoints[0].clone() } else { id.to_owned() },
            name: service.to_owned(),
            version: if carries.version { "v1".to_owned() } else { String::new() },
            metadata,
            endpoints,
        }
    }

    /// What is wrong with how their program's instance was found, if anything.
    pub fn found_wrong(&self, service: &str, found: &ServiceInstance, key: &str) -> Option<String> {
        let carries = self.layout.carries();
        let version = if self.layout == Layout::GoMicro { "latest" } else { "v1" };
        if found.name != service {
            return Some(format!("the name is {:?}", found.name));
        }
        if !key.ends_with(&format!("/{}", found.id)) {
            return Some(format!("the id is {:?} below {key}", found.id));
        }
        if carries.version && found.version != version {
            return Some(format!("the version is {:?}", found.version));
        }
        if carries.metadata && found.metadata.get(ZONE.0).map(String::as_str) != Some(ZONE.1) {
            return Some(format!("the metadata is {:?}", found.metadata));
        }
        let endpoints = if carries.urls { self.overs.len() } else { 1 };
        (found.endpoints.len() != endpoints).then(|| format!("the endpoints are {:?}", found.endpoints))
    }

    /// What their `list` prints of `instance`, the only one of its service.
    pub fn listed(&self, instance: &ServiceInstance) -> Value {
        let address = instance.endpoints.first().cloned().unwrap_or_default();
        match self.layout {
            Layout::Kratos => json!([instance]),
            Layout::GoMicro => json!([{
                "name": instance.name,
                "version": instance.version,
                "metadata": null,
                "endpoints": [],
                "nodes": [{"id": instance.id, "address": address, "metadata": instance.metadata}],
            }]),
            Layout::Grpc => {
                let key = format!("{}{}", self.keys_of(&instance.name), instance.id);
                json!({ key: {"Addr": address, "Metadata": instance.metadata} })
            }
            Layout::Kitex | Layout::Hertz => json!([{"Network": "tcp", "Address": address, "Weight": 10}]),
            Layout::GoKit | Layout::GoZero | Layout::Plain => json!([address]),
        }
    }
}
