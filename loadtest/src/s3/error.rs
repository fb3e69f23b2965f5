//! Errors as S3 responds with them.

use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use s3s::Body;

pub(super) fn error(status: StatusCode, code: &str, message: &str) -> anyhow::Result<Response<Body>> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
         <RequestId>0000000000000000</RequestId><HostId>loadtest</HostId></Error>"
    );
    Ok(Response::builder().status(status).header(CONTENT_TYPE, "application/xml").body(Body::from(xml))?)
}
