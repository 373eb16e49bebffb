//! The authorizers in order (apiserver `authorization/union/union.go`). Most decide at once over what is in memory; some ask somebody else.

use std::{ops::Deref, sync::Arc};

use parking_lot::RwLock;

use super::{Authorizer, Decision, MASTERS, Remote, forbidden, rules::Known};
use crate::{
    authn::User,
    request::RequestInfo,
    wire::{Status, status::aggregate},
};

/// What came out of asking, with everything there is to tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The word.
    pub decision: Decision,
    /// Why it is allowed, where somebody told.
    pub grounds: String,
    /// What went wrong on the way, if anything did. The decision stands nevertheless.
    pub error: Option<String>,
}

/// One member of a chain.
#[derive(Clone)]
pub enum Link {
    /// Decides at once.
    Local(Arc<dyn Authorizer>),
    /// Must be waited for.
    Remote(Arc<dyn Remote>),
}

/// The authorizers in order, before them the superuser group. Clones ask the same, also after a change of the configuration.
#[derive(Clone)]
pub struct Chain(Links);

#[derive(Clone)]
enum Links {
    Fixed(Arc<[Link]>),
    /// From a configuration that may change.
    Reloaded(Arc<RwLock<Arc<[Link]>>>),
}

/// The links as they are now.
enum Current<'a> {
    Fixed(&'a [Link]),
    Reloaded(Arc<[Link]>),
}

/// What those who had no opinion said.
#[derive(Default)]
struct Said {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Verdict {
    /// Allowed, without a word.
    pub(crate) fn allowed() -> Self {
        Decision::Allow.into()
    }

    /// Whether it may be done.
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// Why, whatever was decided; empty when nobody told.
    pub fn reason(&self) -> &str {
        match &self.decision {
            Decision::Allow => &self.grounds,
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

impl From<Decision> for Verdict {
    fn from(decision: Decision) -> Self {
        Self { decision, grounds: String::new(), error: None }
    }
}

impl Link {
    fn name(&self) -> &str {
        match self {
            Self::Local(authorizer) => authorizer.name(),
            Self::Remote(remote) => remote.name(),
        }
    }

    fn rules(&self, user: &User, namespace: &str) -> Known {
        match self {
            Self::Local(authorizer) => authorizer.rules(user, namespace),
            Self::Remote(remote) => remote.rules(),
        }
    }
}

impl Deref for Current<'_> {
    type Target = [Link];

    fn deref(&self) -> &[Link] {
        match self {
            Self::Fixed(links) => links,
            Self::Reloaded(links) => links,
        }
    }
}

impl Said {
    /// Whether this one's word ends the matter.
    fn take(&mut self, link: &Link, verdict: Verdict) -> Option<Verdict> {
        let Decision::NoOpinion(reason) = verdict.decision else { return Some(verdict) };
        if !reason.is_empty() {
            self.reasons.push(format!("{}: {reason}", link.name()));
        }
        self.errors.extend(verdict.error);
        None
    }

    fn nobody(self) -> Verdict {
        Verdict { error: aggregate(self.errors), ..Decision::NoOpinion(self.reasons.join("\n")).into() }
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Chain {
    /// A chain that asks these, in order, for good.
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self::of(authorizers.into_iter().map(Link::Local).collect())
    }

    /// A chain of these links, for good.
    pub fn of(links: Vec<Link>) -> Self {
        Self(Links::Fixed(links.into()))
    }

    /// A chain whose links may be replaced ([`Chain::replace`]).
    pub fn reloaded(links: Vec<Link>) -> Self {
        Self(Links::Reloaded(Arc::new(RwLock::new(links.into()))))
    }

    /// Asks these from now on, here and in all clones; chains that stand for good keep their links.
    pub fn replace(&self, links: Vec<Link>) {
        if let Links::Reloaded(current) = &self.0 {
            *current.write() = links.into();
        }
    }

    /// Lets the request pass or refuses it as upstream words it.
    pub async fn authorize(&self, user: &User, request: &RequestInfo) -> Result<(), Status> {
        let verdict = self.decide(user, request).await;
        if verdict.is_allowed() { Ok(()) } else { Err(forbidden(user, request, verdict.reason())) }
    }

    /// The first that allows or denies decides. Grounds are told only by those who had to be waited for.
    pub async fn decide(&self, user: &User, request: &RequestInfo) -> Verdict {
        self.ask(user, request, false).await
    }

    /// As [`Chain::decide`], with the grounds, which take some work.
    pub async fn judge(&self, user: &User, request: &RequestInfo) -> Verdict {
        self.ask(user, request, true).await
    }

    async fn ask(&self, user: &User, request: &RequestInfo, grounds: bool) -> Verdict {
        if user.in_group(MASTERS) {
            return Verdict::allowed();
        }
        let mut said = Said::default();
        let links = self.current();
        for link in &*links {
            let verdict = match link {
                Link::Local(authorizer) => local(&**authorizer, user, request, grounds),
                Link::Remote(remote) => remote.ask(user, request).await,
            };
            if let Some(decided) = said.take(link, verdict) {
                return decided;
            }
        }
        said.nobody()
    }

    /// As [`Chain::judge`], if nobody must be waited for.
    pub fn judge_now(&self, user: &User, request: &RequestInfo) -> Option<Verdict> {
        if user.in_group(MASTERS) {
            return Some(Verdict::allowed());
        }
        let mut said = Said::default();
        for link in &*self.current() {
            let Link::Local(authorizer) = link else { return None };
            let verdict = local(&**authorizer, user, request, true);
            if let Some(decided) = said.take(link, verdict) {
                return Some(decided);
            }
        }
        Some(said.nobody())
    }

    /// What the authorizers know the user may do in a namespace.
    pub fn rules(&self, user: &User, namespace: &str) -> Known {
        let mut known = Known::default();
        for link in &*self.current() {
            known.extend(link.rules(user, namespace));
        }
        known
    }

    fn current(&self) -> Current<'_> {
        match &self.0 {
            Links::Fixed(links) => Current::Fixed(links),
            Links::Reloaded(links) => Current::Reloaded(links.read().clone()),
        }
    }
}

fn local(authorizer: &dyn Authorizer, user: &User, request: &RequestInfo, grounds: bool) -> Verdict {
    if grounds { authorizer.explain(user, request) } else { authorizer.decide(user, request).into() }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    struct Says(Decision);

    impl Authorizer for Says {
        fn name(&self) -> &str {
            "says"
        }

        fn decide(&self, _: &User, _: &RequestInfo) -> Decision {
            self.0.clone()
        }
    }

    /// Asked over a wire that breaks.
    struct Broken(Decision);

    #[async_trait]
    impl Remote for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        async fn ask(&self, _: &User, _: &RequestInfo) -> Verdict {
            Verdict { error: Some("cut".into()), ..self.0.clone().into() }
        }

        fn rules(&self) -> Known {
            Known { incomplete: true, errors: vec!["who knows".into()], ..Known::default() }
        }
    }

    fn chain(decisions: Vec<Decision>) -> Chain {
        Chain::new(decisions.into_iter().map(|d| Arc::new(Says(d)) as Arc<dyn Authorizer>).collect())
    }

    fn none() -> Decision {
        Decision::NoOpinion(String::new())
    }

    #[tokio::test]
    async fn the_first_that_allows_or_denies_wins() {
        let jane = User::new("jane", &[]);
        let ask = async |decisions| chain(decisions).authorize(&jane, &RequestInfo::default()).await;
        assert!(ask(vec![none(), Decision::Allow, Decision::Deny("no".into())]).await.is_ok());
        assert!(ask(vec![none(), Decision::Deny("no".into()), Decision::Allow]).await.is_err());
        assert!(ask(vec![]).await.is_err());
        let root = User::new("root", &[MASTERS]);
        assert!(chain(vec![Decision::Deny("no".into())]).authorize(&root, &RequestInfo::default()).await.is_ok());
    }

    #[tokio::test]
    async fn reasons_without_a_decision_are_told_with_who_gave_them() {
        let links = vec![
            Link::Local(Arc::new(Says(Decision::NoOpinion("not me".into())))),
            Link::Remote(Arc::new(Broken(Decision::NoOpinion("nor me".into())))),
        ];
        let chain = Chain::of(links);
        let jane = User::new("jane", &[]);
        let verdict = chain.decide(&jane, &RequestInfo::default()).await;
        assert_eq!(verdict.reason(), "says: not me\nbroken: nor me");
        assert_eq!(verdict.error.as_deref(), Some("cut"));
        assert_eq!(chain.judge_now(&jane, &RequestInfo::default()), None);
        let known = chain.rules(&jane, "default");
        assert!(known.incomplete && known.errors == ["who knows"]);
    }

    #[tokio::test]
    async fn a_local_word_before_a_remote_one_is_not_waited_for() {
        let local = |decision| Link::Local(Arc::new(Says(decision)));
        let chain = Chain::reloaded(vec![local(Decision::Allow), Link::Remote(Arc::new(Broken(Decision::Deny("no".into()))))]);
        let clone = chain.clone();
        let jane = User::new("jane", &[]);
        assert!(clone.judge_now(&jane, &RequestInfo::default()).unwrap().is_allowed());
        chain.replace(vec![Link::Remote(Arc::new(Broken(Decision::Deny("no".into()))))]);
        let verdict = clone.decide(&jane, &RequestInfo::default()).await;
        assert_eq!((verdict.decision, verdict.error.as_deref()), (Decision::Deny("no".into()), Some("cut")));
    }
}
