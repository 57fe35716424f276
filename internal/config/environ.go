package config

import (
	"regexp"
	"slices"
	"strings"
)

// StrayVariables are the variables of an environment, each as NAME=value, that have
// this program's prefix and set none of the flags. Nobody would notice such a typo:
// the flag keeps its default.
//
// The variables by which Kubernetes tells a pod of a Service are not ours, though a
// Service can have a name that gives them our prefix.
func StrayVariables(environ, flags []string) Mistakes {
	names, stems := make([]string, len(flags)), make([]string, len(flags))
	for i, flag := range flags {
		names[i] = EnvName(flag)
		stems[i] = strings.TrimPrefix(names[i], EnvPrefix) // what they all begin with makes none nearer
	}
	given := make([]string, 0, len(environ))
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		given = append(given, name)
	}
	var strays Mistakes
	for _, name := range given {
		if !strings.HasPrefix(name, EnvPrefix) || slices.Contains(names, name) || ofService(name, given) {
			continue
		}
		text := "sets no flag of this program"
		if meant := Nearest(strings.TrimPrefix(name, EnvPrefix), stems); meant != "" {
			text += "; did you mean " + EnvPrefix + meant + "?"
		}
		strays.addUsage(cut(name), text)
	}
	slices.SortFunc(strays, func(a, b Mistake) int { return strings.Compare(a.Field, b.Field) })
	return strays
}

// serviceVariable is the end of the name of each variable of a Service.
//
// https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
const serviceVariable = `_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`

// ofService reports whether a variable is one of those of a Service: the one that has
// the Service's address stands beside it.
func ofService(name string, given []string) bool {
	for _, host := range given {
		service, ok := strings.CutSuffix(host, "_SERVICE_HOST")
		if !ok {
			continue
		}
		end, ok := strings.CutPrefix(name, service)
		if ok && regexp.MustCompile("^"+serviceVariable).MatchString(end) {
			return true
		}
	}
	return false
}
