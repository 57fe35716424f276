package model

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sigs.k8s.io/aws-encryption-provider/internal/cause"
)

// Endpoint is where a process whose keys speak AWS's protocol finds KMS as the key of
// that name calls it, below the URL at which [KMS] is served.
func Endpoint(url, who string) string { return url + "/" + who }

// ServeHTTP is KMS on the wire, as far as the program asks it: by AWS JSON 1.1, without
// a look at signatures. An outage closes the connection.
//
// https://docs.aws.amazon.com/kms/latest/APIReference/Welcome.html
func (k *KMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if !ok {
		http.NotFound(w, r) // a connection that is opened ahead
		return
	}
	var in wireRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out, err := k.answer(r.Context(), op, k.Client(strings.Trim(r.URL.Path, "/")), in)
	code := http.StatusOK
	if err != nil {
		code, out = wireError(err)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "00000000-0000-4000-8000-000000000000")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(out) // whoever asked may have gone
}

// wireRequest has the fields of all operations.
type wireRequest struct {
	KeyId                     string //nolint:revive,staticcheck // AWS' name for it
	Plaintext, CiphertextBlob []byte
	DryRun                    bool
}

func (k *KMS) answer(ctx context.Context, op string, c *Client, in wireRequest) (any, error) {
	switch {
	case op == "Encrypt" && !in.DryRun:
		s, err := c.Encrypt(ctx, in.KeyId, in.Plaintext)
		return map[string]any{"CiphertextBlob": s.Blob, "KeyId": s.ARN, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, err
	case op == "Decrypt" && !in.DryRun:
		o, err := c.Decrypt(ctx, in.KeyId, in.CiphertextBlob)
		return map[string]any{
			"Plaintext": o.Plaintext, "KeyId": o.ARN, "KeyMaterialId": o.Material, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
		}, err
	case op == "Decrypt":
		if err := c.MayDecrypt(ctx, in.KeyId); err != nil {
			return nil, err
		}
		return nil, errDryRun
	case op == "DescribeKey":
		d, err := c.DescribeKey(ctx, in.KeyId)
		about := map[string]any{"Arn": d.ARN, "KeyId": d.ARN, "KeyState": d.State, "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT"}
		if !d.Deletion.IsZero() {
			about["DeletionDate"] = float64(d.Deletion.UnixNano()) / float64(time.Second)
		}
		return map[string]any{"KeyMetadata": about}, err
	}
	return nil, errUnknownOperation
}

// What KMS says without a word about a key.
var (
	errDryRun           = errors.New("the request would have succeeded")
	errUnknownOperation = errors.New("the model knows no such operation")
)

// wireError is an error as KMS puts it.
func wireError(err error) (status int, body map[string]string) {
	status = http.StatusBadRequest
	name, message := "", err.Error()
	switch e := cause.Of(err); {
	case errors.Is(err, errDryRun):
		name = "DryRunOperationException"
	case errors.Is(err, errUnknownOperation):
		name = "UnknownOperationException"
	case e.Code == cause.AccessDenied:
		name = "AccessDeniedException"
	case e.Code == cause.KeyDisabled:
		name, message = "DisabledException", e.Key+" is disabled."
	case e.Code == cause.KeyPendingDeletion:
		name, message = "KMSInvalidStateException", e.Key+" is pending deletion."
	case e.Code == cause.CredentialsExpired:
		name, message = "ExpiredTokenException", "The security token included in the request is expired"
	case e.Code == cause.CiphertextInvalid:
		name, message = "InvalidCiphertextException", ""
	case e.Code == cause.NoKeyMadeIt:
		name, message = "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."
	case e.Code == cause.KMSInternal:
		status, name = http.StatusInternalServerError, "KMSInternalException"
	default: // nobody is there
		panic(http.ErrAbortHandler)
	}
	return status, map[string]string{"__type": name, "message": message}
}

// FromGRPC is the error of a call over a socket, with the code that its text names; nil
// stays nil.
func FromGRPC(err error) error {
	if err == nil {
		return nil
	}
	said := status.Convert(err).Message()
	for _, code := range cause.Codes() {
		if strings.Contains(said, code.String()) {
			return &cause.Error{Code: code, Said: said, Err: err}
		}
	}
	if status.Code(err) == codes.InvalidArgument {
		return &cause.Error{Code: cause.CiphertextInvalid, Said: said, Err: err}
	}
	return &cause.Error{Code: cause.Unforeseen, Said: said, Err: err}
}
