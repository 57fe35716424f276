package awskms_test

import (
	encoding "encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/aws-encryption-provider/internal/awskms"
	"sigs.k8s.io/aws-encryption-provider/internal/cause"
	"sigs.k8s.io/aws-encryption-provider/internal/kmsemulator/kmstest"
	"sigs.k8s.io/aws-encryption-provider/internal/secret"
)

const sessionToken = "IQoJb3JpZ2luX2VjEDoaCXVzLXdlc3QtMiJHMEUCIQDx+session+token/of/a/test=="

// An echo answers each request with words made of it.
type echo struct {
	words func(r *http.Request, body string) string
	as    func(w http.ResponseWriter, words string)
}

// repeats are the words.
func repeats() map[string]func(r *http.Request, body string) string {
	authorization := func(r *http.Request) string { return r.Header.Get("Authorization") }
	return map[string]func(r *http.Request, body string) string{
		"authorization":      func(r *http.Request, _ string) string { return authorization(r) },
		"signature":          func(r *http.Request, _ string) string { return "the signature " + signature(r) + " is not mine" },
		"start of signature": func(r *http.Request, _ string) string { return signature(r)[:20] },
		"end of signature":   func(r *http.Request, _ string) string { return "..." + signature(r)[30:] },
		"access key": func(r *http.Request, _ string) string {
			_, rest, _ := strings.Cut(authorization(r), "Credential=")
			return rest[:20]
		},
		"session token":         func(r *http.Request, _ string) string { return r.Header.Get("X-Amz-Security-Token") },
		"part of session token": func(r *http.Request, _ string) string { return r.Header.Get("X-Amz-Security-Token")[7:30] },
		"token cut by the other": func(r *http.Request, _ string) string {
			return "Token: " + r.Header.Get("X-Amz-Security-Token")[:25] + "..."
		},
		"body":        func(_ *http.Request, body string) string { return body },
		"all headers": func(r *http.Request, _ string) string { return fmt.Sprint(r.Header) },
		"much": func(r *http.Request, _ string) string {
			return strings.Repeat(signature(r), 15) + strings.Repeat(".", 40) + r.Header.Get("X-Amz-Security-Token")
		},
	}
}

func signature(r *http.Request) string {
	_, s, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
	return s
}

// placesOfWords are the parts of an answer in which they come.
func placesOfWords() map[string]func(w http.ResponseWriter, words string) {
	answer := func(w http.ResponseWriter, status int, fields map[string]string) {
		w.WriteHeader(status)
		_ = encoding.NewEncoder(w).Encode(fields)
	}
	const id = "9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01"
	return map[string]func(w http.ResponseWriter, words string){
		"message of an unknown error": func(w http.ResponseWriter, words string) {
			w.Header().Set("X-Amzn-Requestid", id)
			answer(w, 400, map[string]string{"__type": "Quantum", "message": words})
		},
		"message of a stranger": func(w http.ResponseWriter, words string) {
			answer(w, 403, map[string]string{"message": words})
		},
		"message of a refusal": func(w http.ResponseWriter, words string) {
			answer(w, 400, map[string]string{"__type": "AccessDeniedException", "message": "User: " + words + " is not authorized to perform: " + words + " on"})
		},
		"code": func(w http.ResponseWriter, words string) { answer(w, 400, map[string]string{"__type": words}) },
		"request id": func(w http.ResponseWriter, words string) {
			w.Header().Set("X-Amzn-Requestid", words)
			answer(w, 400, map[string]string{"__type": "DisabledException"})
		},
		"name of a key": func(w http.ResponseWriter, words string) {
			answer(w, 200, map[string]string{"CiphertextBlob": "AQID", "Plaintext": "AQID", "KeyId": words})
		},
		"id of a key": func(w http.ResponseWriter, words string) {
			w.Header().Set("X-Amzn-Requestid", words)
			answer(w, 200, map[string]string{
				"CiphertextBlob": "AQID", "Plaintext": "AQID", "KeyId": "arn:aws:kms:us-west-2:111122223333:key/" + words, "KeyMaterialId": words,
			})
		},
		"material": func(w http.ResponseWriter, words string) {
			w.Header().Set("X-Amzn-Requestid", words)
			answer(w, 200, map[string]string{
				"CiphertextBlob": "AQID", "Plaintext": "AQID", "KeyId": "arn:aws:kms:us-west-2:111122223333:key/0b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01", "KeyMaterialId": words,
			})
		},
	}
}

// Whoever answers may repeat our own request, whole or in part: nothing secret of it
// is shown or kept.
func TestNothingSecretOfARequestIsShown(t *testing.T) {
	for place, as := range placesOfWords() {
		for what, words := range repeats() {
			t.Run(place+"/"+what, func(t *testing.T) {
				shown := callsOfAnEcho(t, echo{words, as})
				for _, text := range shown.texts {
					for _, part := range shown.secrets {
						if found := commonPart(text, part); len(found) >= 12 {
							t.Errorf("shows %q: %s", found, text)
						}
					}
				}
			})
		}
	}
}

// shown is what calls of an echo showed, and what was secret in their requests.
type shown struct{ texts, secrets []string }

func callsOfAnEcho(t *testing.T, e echo) (all shown) {
	t.Helper()
	kmstest.Start(t).SetEnv(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
	t.Setenv("AWS_SESSION_TOKEN", sessionToken)
	all.secrets = []string{"AKIAIOSFODNN7EXAMPLE", sessionToken}
	c := newClient(t, awskms.Options{Endpoint: serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if signature(r) == "" { // a connection is opened ahead
			return
		}
		body, _ := io.ReadAll(r.Body)
		all.secrets = append(all.secrets, signature(r))
		e.as(w, e.words(r, string(body)))
	})})
	note := func(err error, others ...string) {
		all.texts = append(all.texts, others...)
		if err != nil {
			c := cause.Of(err)
			all.texts = append(all.texts, err.Error(), c.Said, c.AWSCode, c.Principal, c.Action, c.RequestID)
		}
	}
	plaintext, blob := secret.Bytes("a seed of thirty-two bytes, sure"), []byte("a blob that nobody else is to see")
	all.secrets = append(all.secrets, "YSBzZWVkIG9mIHRoaXJ0eS10d28gYnl0ZXMsIHN1cmU=", "YSBibG9iIHRoYXQgbm9ib2R5IGVsc2UgaXMgdG8gc2Vl")
	for _, key := range []string{anyKey, "alias/a"} {
		sealed, err := c.Encrypt(t.Context(), awskms.Call{}, key, plaintext)
		note(err, string(sealed.KeyARN), sealed.RequestID)
		opened, err := c.Decrypt(t.Context(), awskms.Call{}, key, blob)
		note(err, string(opened.KeyARN), opened.RequestID, opened.Material)
	}
	info, err := c.DescribeKey(t.Context(), anyKey)
	note(err, fmt.Sprint(info))
	note(c.MayDecrypt(t.Context(), anyKey, blob))
	note(c.MayEncrypt(t.Context(), anyKey, plaintext))
	opened, err := c.Decrypt(t.Context(), awskms.Call{}, "", blob)
	note(err, string(opened.KeyARN), opened.RequestID, opened.Material)
	return all
}

// commonPart is the longest part of the one text that is in the other.
func commonPart(a, b string) (longest string) {
	for i := range a {
		for j := i + len(longest) + 1; j <= len(a) && strings.Contains(b, a[i:j]); j++ {
			longest = a[i:j]
		}
	}
	return longest
}

// The words that AWS itself uses stay whole.
func TestWordsOfAWSAreShown(t *testing.T) {
	kmstest.Start(t).SetEnv(t)
	t.Setenv("AWS_SESSION_TOKEN", sessionToken)
	const words = "Credential should be scoped to a valid region: 20261128/us-west-2/kms/aws4_request, key " + anyKey
	c := newClient(t, awskms.Options{Endpoint: serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Amzn-Requestid", "9b1fb7a6-44c2-4d3a-9f3f-1d1c1b6a8e01")
		w.WriteHeader(http.StatusBadRequest)
		_ = encoding.NewEncoder(w).Encode(map[string]string{"__type": "InvalidSignatureException", "message": words})
	})})
	_, err := c.Encrypt(t.Context(), awskms.Call{}, anyKey, secret.Bytes("seed"))
	if e := cause.Of(err); e.Said != words || e.RequestID == "" || e.AWSCode == "" {
		t.Errorf("said %q, want %q; %v", e.Said, words, err)
	}
}

// A source of credentials may repeat a part of what it was sent, as KMS may.
func TestNothingSecretOfAQuestionForCredentialsIsShown(t *testing.T) {
	const token = "eyJhbGciOiJSUzI1NiIsImtpZCI6InRlc3QifQ.a-long-token-of-the-pod.signed"
	for what, words := range map[string]func(r *http.Request, body string) string{
		"header": func(r *http.Request, _ string) string { return r.Header.Get("Authorization") },
		"part": func(r *http.Request, _ string) string {
			return "no: " + (r.Header.Get("Authorization") + token)[3:40]
		},
		"body": func(_ *http.Request, body string) string { return body },
	} {
		for source, set := range map[string]func(p *place, url string){
			"container": func(p *place, url string) {
				p.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
				p.set("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)
			},
			"web identity": func(p *place, url string) {
				p.webIdentity(token)
				p.set("AWS_ENDPOINT_URL_STS", url)
			},
		} {
			for kind, answer := range map[string]string{
				"text/plain": "%s", "application/json": `{"code":"x","message":"%s"}`,
				"text/xml": `<ErrorResponse><Error><Code>%[1]s</Code><Message>%[1]s</Message></Error></ErrorResponse>`,
			} {
				t.Run(what+"/"+source+"/"+kind, func(t *testing.T) {
					p := newPlace(t)
					set(p, serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
						body, _ := io.ReadAll(r.Body)
						w.Header().Set("Content-Type", kind)
						w.WriteHeader(http.StatusBadRequest)
						_, _ = fmt.Fprintf(w, answer, words(r, string(body)))
					}))
					e := p.call()
					for _, text := range []string{e.Error(), e.Said, e.AWSCode} {
						if found := commonPart(text, token); len(found) >= 12 {
							t.Errorf("shows %q: %s", found, text)
						}
					}
				})
			}
		}
	}
}

// What AWS knows of the process is cleaned as well.
func TestNothingSecretIsTakenForTheCaller(t *testing.T) {
	p := newPlace(t)
	p.set("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
	p.set("AWS_SECRET_ACCESS_KEY", "s")
	for _, status := range []int{http.StatusOK, http.StatusForbidden} {
		p.set("AWS_ENDPOINT_URL_STS", serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/xml")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `<R><GetCallerIdentityResult><Arn>%[1]s</Arn><Account>%[1]s</Account></GetCallerIdentityResult><Error><Code>Odd</Code><Message>%[1]s</Message></Error></R>`, signature(r))
		}))
		caller, err := newClient(t, p.options).Caller(t.Context())
		text := fmt.Sprint(caller, err)
		if !strings.Contains(text, "[removed]") {
			t.Errorf("status %d: %s, want the signature removed", status, text)
		}
	}
}
