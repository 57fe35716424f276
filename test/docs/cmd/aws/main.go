// Command aws stands in for the AWS CLI where the docs' blocks are tried: it
// knows the calls of KMS that they make, and refuses every other word.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "aws:", err)
		os.Exit(1)
	}
}

// parameters are the options of each command, and KMS's names of them.
func parameters(command string) map[string]string {
	switch command {
	case "create-key":
		return map[string]string{"--description": "Description"}
	case "create-alias":
		return map[string]string{"--alias-name": "AliasName", "--target-key-id": "TargetKeyId"}
	case "delete-alias":
		return map[string]string{"--alias-name": "AliasName"}
	case "get-key-policy":
		return map[string]string{"--key-id": "KeyId", "--policy-name": "PolicyName"}
	case "put-key-policy":
		return map[string]string{"--key-id": "KeyId", "--policy-name": "PolicyName", "--policy": "Policy"}
	case "describe-key", "enable-key", "disable-key", "enable-key-rotation", "schedule-key-deletion", "cancel-key-deletion":
		return map[string]string{"--key-id": "KeyId"}
	}
	return nil
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 || args[0] != "kms" || parameters(args[1]) == nil {
		return fmt.Errorf("unknown command %q", args)
	}
	var region, query, output string
	in := map[string]string{}
	for rest := args[2:]; len(rest) > 0; rest = rest[2:] {
		if len(rest) == 1 {
			return fmt.Errorf("%s lacks a value", rest[0])
		}
		switch field := parameters(args[1])[rest[0]]; {
		case field != "":
			value, err := parameter(rest[1])
			if err != nil {
				return err
			}
			in[field] = value
		case rest[0] == "--region":
			region = rest[1]
		case rest[0] == "--query":
			query = rest[1]
		case rest[0] == "--output":
			output = rest[1]
		default:
			return fmt.Errorf("unknown option %s of %s", rest[0], args[1])
		}
	}
	if (query == "") != (output == "") || output != "" && output != "text" {
		return errors.New("only --query together with --output text is known")
	}
	body, err := call(ctx, args[1], region, in)
	if err != nil || len(body) == 0 {
		return err
	}
	if query == "" {
		var shown bytes.Buffer
		if err := json.Indent(&shown, body, "", "    "); err != nil {
			return err
		}
		_, err = fmt.Fprintln(out, shown.String())
		return err
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	for name := range strings.SplitSeq(query, ".") {
		object, _ := value.(map[string]any)
		if value = object[name]; value == nil {
			return fmt.Errorf("--query %s: no %s in %s", query, name, body)
		}
	}
	_, err = fmt.Fprintln(out, value)
	return err
}

// parameter is an option's value, or what is in the file that it names.
//
// https://docs.aws.amazon.com/cli/latest/userguide/cli-usage-parameters-file.html
func parameter(value string) (string, error) {
	path, ok := strings.CutPrefix(value, "file://")
	if !ok {
		return value, nil
	}
	text, err := os.ReadFile(path)
	return string(text), err
}

// call asks KMS, signed as
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
// says.
func call(ctx context.Context, command, region string, in map[string]string) ([]byte, error) {
	var operation strings.Builder
	for word := range strings.SplitSeq(command, "-") {
		operation.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("AWS_ENDPOINT_URL_KMS")+"/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	day, date := now.Format("20060102"), now.Format("20060102T150405Z")
	target := "TrentService." + operation.String()
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", target)
	req.Header.Set("X-Amz-Date", date)
	const signed = "content-type;host;x-amz-date;x-amz-target"
	canonical := "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:" + req.URL.Host +
		"\nx-amz-date:" + date + "\nx-amz-target:" + target + "\n\n" + signed + "\n" + digest(body)
	scope := day + "/" + region + "/kms/aws4_request"
	key := []byte("AWS4" + os.Getenv("AWS_SECRET_ACCESS_KEY"))
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	signature := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+digest([]byte(canonical))))
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+os.Getenv("AWS_ACCESS_KEY_ID")+"/"+scope+
		", SignedHeaders="+signed+", Signature="+signature)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", operation.String(), resp.Status, answer)
	}
	return answer, err
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, data string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(data))
	return m.Sum(nil)
}
