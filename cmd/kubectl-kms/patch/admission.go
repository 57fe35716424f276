package patch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"sigs.k8s.io/aws-encryption-provider/cmd/kubectl-kms/rewrite"
	"sigs.k8s.io/aws-encryption-provider/internal/report"
)

const registration = "admissionregistration.k8s.io"

// A rule of a webhook or policy: which requests it is asked about.
type rule struct {
	Operations []string
	APIGroups  []string
	Resources  []string
}

// matches reports whether an update of a resource may be asked about. Versions are left
// out: an API server converts to the one that is asked for. Selectors and conditions are
// too, so that whoever is named need not act.
func (r rule) matches(of rewrite.Resource) bool {
	return holds(r.Operations, "*", "UPDATE") && holds(r.APIGroups, "*", of.Group) && holds(r.Resources, "*", "*/*", of.Name)
}

func holds(list []string, of ...string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return slices.Contains(of, one) })
}

// matched are the resources that one of the rules matches.
func matched(rules []rule, resources []rewrite.Resource) []string {
	var out []string
	for _, of := range resources {
		if slices.ContainsFunc(rules, func(r rule) bool { return r.matches(of) }) {
			out = append(out, report.Plain(of.String()))
		}
	}
	return out
}

type named struct{ Metadata struct{ Name string } }

// Of implements [rewrite.Admissions].
func (c *Client) Of(ctx context.Context, resources []rewrite.Resource) (rewrite.Admission, error) {
	var a rewrite.Admission
	served, _, err := c.group(ctx, registration)
	if err != nil {
		return a, err
	}
	var denied []string
	for _, look := range []struct {
		resource string
		add      func(context.Context, string, *rewrite.Admission, []rewrite.Resource) error
	}{
		{"mutatingwebhookconfigurations", c.webhooks},
		{"mutatingadmissionpolicies", c.policies},
	} {
		s, ok := served[look.resource]
		if !ok {
			continue // before 1.34 there are no policies that mutate, unless asked for
		}
		err := look.add(ctx, s.path, &a, resources)
		refusal, refused := errors.AsType[*rewrite.RefusalError](err)
		switch {
		case refused && refusal.Code == http.StatusForbidden:
			denied = append(denied, look.resource)
		case err != nil:
			return a, fmt.Errorf("asking for %s: %w", look.resource, err)
		}
	}
	if len(denied) > 0 {
		a.Unknown = "this user may not list " + strings.Join(denied, " and ") + " of " + registration
	}
	return a, nil
}

func (c *Client) webhooks(ctx context.Context, path string, a *rewrite.Admission, resources []rewrite.Resource) error {
	var list struct {
		Items []struct {
			named

			Webhooks []struct {
				Name  string
				Rules []rule
			}
		}
	}
	if err := c.get(ctx, path+"/mutatingwebhookconfigurations", plainJSON, &list); err != nil {
		return err
	}
	for _, config := range list.Items {
		for _, hook := range config.Webhooks {
			if of := matched(hook.Rules, resources); len(of) > 0 {
				a.Mutating = append(a.Mutating, fmt.Sprintf("webhook %s of mutatingwebhookconfiguration %s, asked about %s",
					report.Plain(hook.Name), report.Plain(config.Metadata.Name), strings.Join(of, ", ")))
			}
		}
	}
	return nil
}

// policies are those that a binding puts to work.
func (c *Client) policies(ctx context.Context, path string, a *rewrite.Admission, resources []rewrite.Resource) error {
	var bindings struct {
		Items []struct {
			Spec struct{ PolicyName string }
		}
	}
	if err := c.get(ctx, path+"/mutatingadmissionpolicybindings", plainJSON, &bindings); err != nil {
		return err
	}
	var list struct {
		Items []struct {
			named

			Spec struct {
				MatchConstraints struct{ ResourceRules []rule }
			}
		}
	}
	if err := c.get(ctx, path+"/mutatingadmissionpolicies", plainJSON, &list); err != nil {
		return err
	}
	for _, policy := range list.Items {
		bound := false
		for _, b := range bindings.Items {
			bound = bound || b.Spec.PolicyName == policy.Metadata.Name
		}
		if of := matched(policy.Spec.MatchConstraints.ResourceRules, resources); bound && len(of) > 0 {
			a.Mutating = append(a.Mutating, fmt.Sprintf("mutatingadmissionpolicy %s, asked about %s", report.Plain(policy.Metadata.Name), strings.Join(of, ", ")))
		}
	}
	return nil
}

// Aggregated returns the groups that other servers than kube-apiserver answer for.
func (c *Client) Aggregated(ctx context.Context) ([]string, error) {
	var list struct {
		Items []struct {
			Spec struct {
				Group   string
				Service *struct{}
			}
		}
	}
	if err := c.get(ctx, "/apis/apiregistration.k8s.io/v1/apiservices", plainJSON, &list); err != nil {
		return nil, err
	}
	var out []string
	for _, item := range list.Items {
		if item.Spec.Service != nil && !slices.Contains(out, item.Spec.Group) {
			out = append(out, item.Spec.Group)
		}
	}
	return out, nil
}
