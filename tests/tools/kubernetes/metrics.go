package main

import (
	"net"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/metrics-server/pkg/api"
	generated "sigs.k8s.io/metrics-server/pkg/api/generated/openapi"
	"sigs.k8s.io/metrics-server/pkg/scraper/client"
	metrics "sigs.k8s.io/metrics-server/pkg/server"
)

// metricsServer is metrics-server's own command in small: its package of options does not compile against the
// Kubernetes libraries of this module, and what tests need of it is this.
func metricsServer(stop <-chan struct{}) *cobra.Command {
	secure := options.NewSecureServingOptions().WithLoopback()
	authentication := options.NewDelegatingAuthenticationOptions()
	authorization := options.NewDelegatingAuthorizationOptions()
	var kubeconfig string
	var resolution, timeout time.Duration
	command := &cobra.Command{
		Use:          "metrics-server",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			if err := secure.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.ParseIP("127.0.0.1")}); err != nil {
				return err
			}
			config := server.NewConfig(api.Codecs)
			config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
			if err := secure.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig); err != nil {
				return err
			}
			if err := authentication.ApplyTo(&config.Authentication, config.SecureServing, nil); err != nil {
				return err
			}
			if err := authorization.ApplyTo(&config.Authorization); err != nil {
				return err
			}
			namer := openapi.NewDefinitionNamer(api.Scheme)
			config.OpenAPIConfig = server.DefaultOpenAPIConfig(generated.GetOpenAPIDefinitions, namer)
			config.OpenAPIV3Config = server.DefaultOpenAPIV3Config(generated.GetOpenAPIDefinitions, namer)
			config.OpenAPIConfig.Info.Title = "metrics-server"
			config.OpenAPIV3Config.Info.Title = "metrics-server"
			cluster, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			cluster.ContentType = "application/vnd.kubernetes.protobuf"
			if err := rest.SetKubernetesDefaults(cluster); err != nil {
				return err
			}
			kubelet := rest.CopyConfig(cluster)
			// The kubelets' certificates are their own.
			kubelet.TLSClientConfig.Insecure = true
			kubelet.TLSClientConfig.CAFile, kubelet.TLSClientConfig.CAData = "", nil
			complete, err := metrics.Config{
				Apiserver:        config,
				Rest:             cluster,
				MetricResolution: resolution,
				ScrapeTimeout:    timeout,
				Kubelet: &client.KubeletClientConfig{
					Client:              *kubelet,
					AddressTypePriority: []corev1.NodeAddressType{corev1.NodeInternalIP},
					Scheme:              "https",
					DefaultPort:         10250,
				},
			}.Complete()
			if err != nil {
				return err
			}
			return complete.RunUntil(stop)
		},
	}
	flags := command.Flags()
	secure.AddFlags(flags)
	authentication.AddFlags(flags)
	authorization.AddFlags(flags)
	flags.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the API server")
	flags.DurationVar(&resolution, "metric-resolution", 10*time.Second, "how often kubelets are asked")
	flags.DurationVar(&timeout, "kubelet-request-timeout", 5*time.Second, "how long a kubelet may take")
	return command
}
