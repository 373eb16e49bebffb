//! Answers of the authentication reviews: TokenReview and SelfSubjectReview. They are never stored.

use std::sync::Arc;

use coracle_schema::time;
use coracle_tree::{Value, json};
use jiff::Timestamp;

use super::{Authenticator, User, tokens::Remarks};
use crate::{registry::Object, wire::Status};

/// Fills the status of a TokenReview. Beside it there is what is to be told of the token's use.
pub async fn token_review(
    authenticator: &Authenticator,
    mut review: Object,
    now: Timestamp,
) -> Result<(Object, Option<Arc<Remarks>>), Status> {
    let token = review.text("/spec/token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let asked: Vec<String> = match review.value().pointer("/spec/audiences").and_then(Value::as_array) {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => authenticator.audiences().to_vec(),
    };
    let (status, remarks) = match authenticator.token(&token, &asked, now).await {
        Ok(verified) => {
            let status = json!({"authenticated": true, "user": user_info(&verified.user), "audiences": verified.audiences[..]});
            (status, verified.remarks)
        }
        Err(refusal) => (json!({"user": {}, "error": refusal.to_string()}), None),
    };
    set_status(&mut review, status);
    Ok((review, remarks))
}

/// The answer to a SelfSubjectReview: nothing of the question, and who asked.
pub fn self_subject_review(user: &User, mut review: Object, now: Timestamp) -> Object {
    if let Some(members) = review.value_mut().as_object_mut() {
        members.retain(|name, _| name == "apiVersion" || name == "kind");
        members.insert("metadata", json!({}));
    }
    review.set_metadata("creationTimestamp", time::seconds(now));
    set_status(&mut review, json!({"userInfo": user_info(user)}));
    review
}

/// A user as `authentication/v1.UserInfo`.
pub fn user_info(user: &User) -> Value {
    let mut info = json!({"username": &*user.name});
    if !user.uid.is_empty() {
        info["uid"] = (*user.uid).into();
    }
    if !user.groups.is_empty() {
        info["groups"] = user.groups.iter().map(|g| Value::from(&**g)).collect();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn set_status(review: &mut Object, status: Value) {
    if let Some(root) = review.value_mut().as_object_mut() {
        root.insert("status", status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authn::{Options, bearer},
        registry::fake::FakeReader,
    };

    async fn review(spec: Value) -> Result<Value, Status> {
        let fixed_tokens = bearer::fixed_tokens("secret,jane,u1,devs").unwrap();
        let options = Options { fixed_tokens, issuers: vec!["api".into()], ..Options::default() };
        let authenticator = Authenticator::new(options, Arc::new(FakeReader::default())).unwrap();
        let review = Object::new(json!({"spec": spec})).unwrap();
        token_review(&authenticator, review, Timestamp::UNIX_EPOCH).await.map(|(o, _)| o.value()["status"].clone())
    }

    #[tokio::test]
    async fn token_review_tells_who_and_for_whom() {
        let status = review(json!({"token": "secret"})).await.unwrap();
        let user = json!({"username": "jane", "uid": "u1", "groups": ["devs", "system:authenticated"]});
        assert_eq!(status, json!({"authenticated": true, "user": user, "audiences": ["api"]}));
        let elsewhere = review(json!({"token": "secret", "audiences": ["vault"]})).await.unwrap();
        assert_eq!(elsewhere.get("authenticated"), None);
        assert!(review(json!({"token": "bad"})).await.unwrap()["error"].is_string());
        assert_eq!(review(json!({})).await.unwrap_err().code, 400);
    }

    #[test]
    fn self_subject_review_repeats_the_user() {
        let review = self_subject_review(&User::new("jane", &[]), Object::new(json!({})).unwrap(), Timestamp::UNIX_EPOCH);
        assert_eq!(review.text("/status/userInfo/username"), "jane");
    }
}
