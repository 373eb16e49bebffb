//! The variables of policies' expressions (apiserver `admission/plugin/cel/compile.go`).

use coracle_cel::{Decl, Env, Listing, ObjectType, Type};

/// Where the variables stand. `params` and the authorizer follow if they are declared.
pub(super) const OBJECT: usize = 0;
pub(super) const OLD_OBJECT: usize = 1;
pub(super) const NAMESPACE: usize = 2;
pub(super) const REQUEST: usize = 3;
pub(super) const VARIABLES: usize = 4;
pub(super) const PARAMS: usize = 5;

/// What no expression can name: it keeps a place.
const UNSPOKEN: &str = "@variables";

/// Which of the variables are declared that not all expressions have.
#[derive(Clone, Copy)]
pub(super) struct Declared {
    pub(super) params: bool,
    /// Those of the policy. Match conditions are asked before them.
    pub(super) variables: bool,
    pub(super) authorizer: bool,
    /// Types of patches.
    pub(super) patches: bool,
}

impl Declared {
    /// Where `authorizer` stands; `authorizer.requestResource` follows.
    pub(super) fn authorizer_place(self) -> usize {
        PARAMS + usize::from(self.params)
    }
}

/// The environment of an expression that follows these variables of the policy.
pub(super) fn environment(declared: Declared, variables: &[(String, Type)]) -> Env {
    let fields = variables.iter().map(|(name, ty)| (name.clone(), Decl::host(ty.clone())));
    let mut env = Env::new()
        .stored()
        .variable("object", Decl::dynamic())
        .variable("oldObject", Decl::dynamic())
        .variable("namespaceObject", namespace().nullable())
        .variable("request", request())
        .variable(
            if declared.variables { "variables" } else { UNSPOKEN },
            Decl::object(ObjectType::new("kubernetes.variables", fields), &[]),
        );
    if declared.params {
        env = env.variable("params", Decl::dynamic());
    }
    if declared.authorizer {
        env = env
            .variable("authorizer", Decl::host(Type::named("kubernetes.authorization.Authorizer")))
            .variable("authorizer.requestResource", Decl::host(Type::named("kubernetes.authorization.ResourceCheck")));
    }
    if declared.patches { env.mutation() } else { env }
}

fn text() -> Decl {
    Decl::string(None, None)
}

fn texts() -> Decl {
    Decl::list(text(), Listing::Atomic, None)
}

fn object(name: &str, fields: Vec<(&str, Decl)>) -> Decl {
    Decl::object(ObjectType::new(name, fields.into_iter().map(|(name, decl)| (name.to_owned(), decl))), &[])
}

/// `admission.k8s.io/v1` `AdmissionRequest`, without the objects.
fn request() -> Decl {
    let kind = || object("kubernetes.GroupVersionKind", vec![("group", text()), ("version", text()), ("kind", text())]);
    let resource = || object("kubernetes.GroupVersionResource", vec![("group", text()), ("version", text()), ("resource", text())]);
    let user = vec![("username", text()), ("uid", text()), ("groups", texts()), ("extra", Decl::map(texts(), None))];
    object(
        "kubernetes.AdmissionRequest",
        vec![
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", object("kubernetes.UserInfo", user)),
            ("dryRun", Decl::bool()),
            ("options", Decl::dynamic()),
        ],
    )
}

fn namespace() -> Decl {
    let metadata = vec![
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("labels", Decl::map(text(), None)),
        ("annotations", Decl::map(text(), None)),
        ("UID", text()),
        ("creationTimestamp", Decl::date_time()),
        ("deletionGracePeriodSeconds", Decl::int()),
        ("deletionTimestamp", Decl::date_time()),
        ("generation", Decl::int()),
        ("resourceVersion", text()),
        ("finalizers", texts()),
    ];
    object(
        "kubernetes.Namespace",
        vec![
            ("metadata", object("kubernetes.NamespaceMetadata", metadata)),
            ("spec", object("kubernetes.NamespaceSpec", vec![("finalizers", texts())])),
            ("status", object("kubernetes.NamespaceStatus", vec![("phase", text())])),
        ],
    )
}
